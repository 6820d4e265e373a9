-- Meters of which tenants have nothing left, as billing's events tell it.
create table workflow.quotas (
    tenant_id  uuid        not null,
    meter      text        not null,
    exhausted  boolean     not null,
    -- When the period that it is used up for ends.
    period_end timestamptz not null,
    -- Of the event: a later one stands, whichever comes first.
    told_at    timestamptz not null,
    primary key (tenant_id, meter)
);
create index quotas_exhausted on workflow.quotas (tenant_id, meter) where exhausted;

alter table workflow.quotas enable row level security;
alter table workflow.quotas force row level security;
create policy tenant on workflow.quotas to tenon_workflow
    using (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid));
create policy system on workflow.quotas to tenon_workflow_system using (true);
grant select on workflow.quotas to tenon_workflow;
grant select, insert, update on workflow.quotas to tenon_workflow_system;

-- Runs that wait for their tenant's standing, or for something to be left of a meter (quota:METER).
drop index workflow.runs_parked;
create index runs_parked on workflow.runs (partition, tenant_id, paused)
    where paused = 'standing' or starts_with(paused, 'quota:');
