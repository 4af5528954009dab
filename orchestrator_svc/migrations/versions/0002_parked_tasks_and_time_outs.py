"""Tasks that are paused or wait for a person, three time-outs, suspects and dead letters."""

from alembic import op

revision = "0002"
down_revision = "0001"

_COLUMNS = """
ALTER TABLE task
    ADD COLUMN input_kind text CHECK (input_kind IN ('QUESTION', 'APPROVAL', 'UNCERTAIN_STEP')),
    ADD COLUMN from_step text,
    ADD COLUMN losses integer NOT NULL DEFAULT 0,
    ADD COLUMN suspect boolean NOT NULL DEFAULT false,
    ADD COLUMN pausing boolean NOT NULL DEFAULT false,
    ADD COLUMN dead_lettered boolean NOT NULL DEFAULT false,
    ADD COLUMN schedule_to_start double precision CHECK (schedule_to_start > 0),
    ADD COLUMN schedule_to_close double precision CHECK (schedule_to_close > 0),
    ADD COLUMN start_by timestamptz,
    ADD COLUMN expires timestamptz,
    ADD COLUMN left_seconds double precision CHECK (left_seconds >= 0),
    ADD COLUMN wind_up_by timestamptz,
    ADD COLUMN due_time timestamptz
        GENERATED ALWAYS AS (least(start_by, expires, close_by, wind_up_by)) STORED,
    DROP CONSTRAINT task_state_check,
    ADD CONSTRAINT task_state_check CHECK (state IN ('SUBMITTED', 'RUNNING', 'CANCELING', 'PAUSED',
        'INPUT_REQUIRED', 'COMPLETED', 'FAILED', 'CANCELED')),
    ADD CONSTRAINT task_input_kind CHECK ((input_kind IS NOT NULL) = (state = 'INPUT_REQUIRED')),
    ADD CONSTRAINT task_pausing CHECK (NOT pausing OR state = 'RUNNING'),
    ADD CONSTRAINT task_start_by CHECK (start_by IS NULL OR state = 'SUBMITTED'),
    ADD CONSTRAINT task_expires CHECK (expires IS NULL OR state IN ('SUBMITTED', 'RUNNING')),
    ADD CONSTRAINT task_wind_up_by CHECK (wind_up_by IS NULL OR state IN ('RUNNING', 'CANCELING')),
    ADD CONSTRAINT task_dead_lettered CHECK (NOT dead_lettered OR state = 'FAILED')
"""
_INPUT = """
CREATE TABLE task_input (
    task_id uuid NOT NULL,
    input_id text NOT NULL,
    tenant text NOT NULL,
    kind text,
    step_key text NOT NULL,
    prompt text NOT NULL,
    schema text NOT NULL,
    attempt integer NOT NULL,
    answer text,
    answered_by text CHECK ((answered_by IS NULL) = (answer IS NULL)),
    request_time timestamptz,
    answer_time timestamptz CHECK ((answer_time IS NULL) = (answer IS NULL)),
    PRIMARY KEY (task_id, input_id)
)
"""


def upgrade() -> None:
    op.execute(_COLUMNS)
    # One index for every clock that runs on a task.
    op.execute("CREATE INDEX task_due ON task (due_time) WHERE due_time IS NOT NULL")
    op.execute("DROP INDEX task_close_by")
    op.execute(
        "CREATE INDEX task_dead_lettered ON task (tenant, create_time DESC, task_id DESC) WHERE dead_lettered"
    )
    # Which dead letters have been repeated.
    op.execute("CREATE INDEX task_retried_from ON task (retried_from) WHERE retried_from IS NOT NULL")
    op.execute(_INPUT)
