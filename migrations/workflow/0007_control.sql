-- A run that has failed can be told to go on from the state that failed.
alter table workflow.messages
    drop constraint messages_kind_check,
    add constraint messages_kind_check check (kind in
        ('TASK_DONE', 'TASK_FAILED', 'HEARTBEAT', 'SIGNAL', 'CANCEL', 'TERMINATE', 'PAUSE', 'RESUME', 'RETRY'));
-- What RetryRun makes of a run that has ended.
grant update (error, cause, purge_at) on workflow.runs to tenon_workflow;
