import json
import threading

from tests.suite_running import Suite


def test_a_watch_resumes_by_itself_over_a_restart_of_the_orchestrator(suite: Suite) -> None:
    task_id = suite.json("submit", "bench-slow", '{"seconds": 3}')["task_id"]
    watching = suite.begin("watch", task_id, "--after", "1", "-o", "json")
    assert watching.stdout is not None
    lines: list[str] = []
    first = threading.Event()

    def read() -> None:
        assert watching.stdout is not None
        for line in watching.stdout:
            lines.append(line)
            first.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert first.wait(30)
    suite.ask(op="restart", process="orchestrator")
    code = watching.wait(90)
    reader.join()
    assert watching.stderr is not None
    with watching.stdout, watching.stderr:
        said = watching.stderr.read()
    events = [json.loads(line)["event"] for line in lines]
    assert code == 0, said
    assert "(interrupted: " in said and "going on after revision" in said
    assert [int(event["revision"]) for event in events] == list(range(2, 2 + len(events)))
    assert events[-1]["state"] == "TASK_STATE_COMPLETED"
