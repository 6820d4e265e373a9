-- A run that has failed can be told to go on from the state that failed.
alter table workflow.messages
    drop constraint messages_kind_check,
    add constraint messages_kind_check check (kind in
        ('TASK_DONE', 'TASK_FAILED', 'HEARTBEAT', 'SIGNAL', 'CANCEL', 'TERMINATE', 'PAUSE', 'RESUME', 'RETRY'));
-- What RetryRun makes of a run that has ended.
grant update (error, cause, purge_at) on workflow.runs to tenon_workflow;

-- Runs of tenants that are suspended or owe money, which go on when the tenant is in good standing again.
create index runs_parked on workflow.runs (partition, tenant_id) where paused = 'standing';

-- With the tenant, so that those who wait behind another tenant's thousands are found without reading their rows.
drop index workflow.runs_due;
create index runs_due on workflow.runs (partition, due_at) include (tenant_id) where due_at is not null;

-- A key is kept with what it is for before it.
alter table workflow.run_keys
    drop constraint run_keys_key_check, add constraint run_keys_key_check check (length(key) between 1 and 512);
