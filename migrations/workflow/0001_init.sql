-- What the workflow service keeps: immutable definitions, runs with the state of their machine, their history, and which
-- engine owns which partition of the runs.
create schema if not exists workflow;
grant usage on schema workflow to tenon_workflow, tenon_workflow_system;

-- A version never changes. json and not jsonb throughout: nothing looks inside, and text is cheaper to take in.
create table workflow.workflows (
    tenant_id   uuid        not null,
    workflow_id text        not null check (workflow_id ~ '^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$'),
    version     integer     not null check (version > 0),
    definition  json        not null,
    created_at  timestamptz not null default now(),
    primary key (tenant_id, workflow_id, version)
);

create table workflow.runs (
    tenant_id     uuid        not null,
    id            uuid        not null,
    -- A hash of tenant and run; the owner of the partition is the only one that moves the run on.
    partition     smallint    not null,
    workflow_id   text        not null,
    version       integer     not null,
    entity_id     text        not null default '' check (length(entity_id) <= 128),
    state         text        not null default 'RUNNING'
                  check (state in ('RUNNING', 'SUCCEEDED', 'FAILED', 'TIMED_OUT', 'CANCELLED')),
    input         json        not null,
    output        json,
    error         text,
    cause         text,
    -- The state of the machine; absent before its first step and after its last.
    execution     json,
    -- When the engine must look at this row: infinity while an engine has it in memory, a time while it sleeps.
    due_at        timestamptz not null default now(),
    -- Set by CancelRun, acted upon by the owner.
    cancel_reason text,
    -- Takeovers from an engine that died while it had this run, since the last step that was written.
    crashes       smallint    not null default 0,
    -- The starter, in whose name and with whose roles tasks are called.
    created_by    text        not null,
    roles         text[]      not null,
    traceparent   text,
    created_at    timestamptz not null default now(),
    ended_at      timestamptz,
    primary key (tenant_id, id),
    foreign key (tenant_id, workflow_id, version) references workflow.workflows (tenant_id, workflow_id, version),
    check ((state = 'RUNNING') = (ended_at is null))
);
create index runs_due on workflow.runs (partition, due_at) where state = 'RUNNING';
create index runs_by_workflow on workflow.runs (tenant_id, workflow_id, id);
create index runs_by_entity on workflow.runs (tenant_id, entity_id, id);
create index runs_by_state on workflow.runs (tenant_id, state, id);

create table workflow.history (
    tenant_id   uuid        not null,
    run_id      uuid        not null,
    id          bigint      not null,
    previous_id bigint      not null,
    type        text        not null,
    state       text        not null default '',
    details     json        not null,
    time        timestamptz not null,
    primary key (tenant_id, run_id, id),
    foreign key (tenant_id, run_id) references workflow.runs (tenant_id, id)
);

-- Engines that live, and what they own; no tenant's data.
create table workflow.engines (
    id          uuid        primary key,
    lease_until timestamptz not null
);

create table workflow.partitions (
    id    smallint primary key,
    owner uuid,
    -- Grows with each change of owner; every write of an engine checks that it is still the one it knows.
    epoch bigint   not null default 0
);

alter table workflow.workflows enable row level security;
alter table workflow.workflows force row level security;
alter table workflow.runs enable row level security;
alter table workflow.runs force row level security;
alter table workflow.history enable row level security;
alter table workflow.history force row level security;

create policy tenant on workflow.workflows to tenon_workflow
    using (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid));
create policy tenant on workflow.runs to tenon_workflow
    using (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid));
create policy tenant on workflow.history to tenon_workflow
    using (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid));
create policy system on workflow.workflows to tenon_workflow_system using (true) with check (true);
create policy system on workflow.runs to tenon_workflow_system using (true) with check (true);
create policy system on workflow.history to tenon_workflow_system using (true) with check (true);

grant select, insert on workflow.workflows to tenon_workflow;
grant select, insert on workflow.runs to tenon_workflow;
grant update (cancel_reason, due_at) on workflow.runs to tenon_workflow;
grant select on workflow.history to tenon_workflow;

grant select on workflow.workflows to tenon_workflow_system;
grant select, update on workflow.runs to tenon_workflow_system;
grant select, insert on workflow.history to tenon_workflow_system;
grant select, insert, update, delete on workflow.engines to tenon_workflow_system;
grant select, insert, update on workflow.partitions to tenon_workflow_system;
