"""Which public methods may be sent twice without doing a thing twice."""

_ORCHESTRATOR = "/interlock.orchestrator.v1.OrchestratorService"
_QUEUES = "/interlock.orchestrator.v1.QueueService"
_REGISTRY = "/interlock.registry.v1.RegistryService"
_TOOLS = "/interlock.registry.v1.ToolService"
_GATEWAY = "/interlock.gateway.v1.GatewayService"
_POLICIES = "/interlock.gateway.v1.PolicyService"
_APPROVALS = "/interlock.gateway.v1.ApprovalService"
_LIMITS = "/interlock.gateway.v1.LimitService"
_CONNECTIONS = "/interlock.gateway.v1.ConnectionService"
_AUDIT = "/interlock.audit.v1.AuditService"
_ERASURES = "/interlock.audit.v1.ErasureService"
_RETENTION = "/interlock.audit.v1.RetentionService"

# What reads; what answers a repeat as it answered the first; what sets a thing to what it is already.
# Not among them: what creates or deletes by name, whose repeat would find its own work in the way.
SAFE_METHODS = frozenset(
    f"{service}/{method}"
    for service, methods in {
        _ORCHESTRATOR: (
            "SubmitTask",  # with a request id, as the channel makes sure
            "RetryTask",
            "RedriveTasks",  # likewise
            "CancelTask",
            "PauseTask",
            "ResumeTask",
            "ProvideInput",
            "GetTask",
            "ListTasks",
            "ListChildTasks",
            "ListTaskSteps",
            "WaitTask",
            "ListTaskEvents",
            "CountTasks",
            "QueryTaskMetrics",
            "ExplainTask",
            "GetPublicKeys",
        ),
        _QUEUES: (
            "GetQueue",
            "ListQueues",
            "PauseQueue",
            "ResumeQueue",
            "PurgeQueue",
            "ListWorkers",
            "DrainWorker",
            "ResumeWorker",
        ),
        _REGISTRY: (
            "GetAgent",
            "ListAgents",
            "GetAgentVersion",
            "ListAgentVersions",
            "FindAgentsForTask",
            "PublishAgentVersion",
        ),
        _TOOLS: ("GetTool", "ListTools", "GetToolVersion", "ListToolVersions", "PublishToolVersion"),
        _GATEWAY: (
            "CancelToolCall",
            "CheckToolCall",
            "ListAllowedTools",
            "GetToolCall",
            "ListToolCalls",
            "GetSandboxStatus",
            "GetPublicKeys",
        ),
        _POLICIES: ("GetPolicy", "ListPolicies", "ListPolicyVersions", "ExplainDecision"),
        _APPROVALS: ("GetApproval", "ListApprovals", "DecideApproval"),
        _CONNECTIONS: ("GetConnection", "ListConnections"),
        _LIMITS: ("ListCallLimits",),
        _AUDIT: (
            "GetEntry",
            "GetPayload",
            "GetAuditTrail",
            "SearchEntries",
            "GetCheckpoint",
            "GetInclusionProof",
            "GetConsistencyProof",
            "GetCompleteness",
            "GetPublicKeys",
        ),
        _ERASURES: (
            "ErasePayload",  # likewise
            "GetErasure",
            "ListErasures",
        ),
        _RETENTION: (
            "GetRetentionPolicy",
            "ListRetentionPresets",
            "PreviewRetention",
            "ReleaseHold",
            "ListHolds",
        ),
    }.items()
    for method in methods
)
