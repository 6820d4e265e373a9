-- What is past its use is deleted, in small batches, by the workflow service's role.
grant delete on mesh.outbox, mesh.inbox to tenon_workflow_system;
grant select, delete on mesh.idempotency to tenon_workflow_system;
create policy system on mesh.idempotency to tenon_workflow_system using (true);
-- Rows are added in the order of these times: a range of blocks says when, for next to nothing.
create index inbox_by_age on mesh.inbox using brin (seen_at) with (pages_per_range = 32, autosummarize = on);
create index idempotency_by_age on mesh.idempotency using brin (created_at)
    with (pages_per_range = 32, autosummarize = on);
