-- What surrounds a template, and what starts runs beside CreateRun.
alter table workflow.workflows add column envelope jsonb not null default '{}';

-- The event and webhook triggers of the latest version of each workflow.
create table workflow.triggers (
    tenant_id   uuid     not null,
    workflow_id text     not null,
    position    smallint not null,
    kind        text     not null check (kind in ('event', 'webhook')),
    -- The type of the event, a star at the end stands for anything; or the id of the hook.
    source      text     not null,
    -- CEL; empty is none.
    filter      text     not null,
    input       text     not null,
    -- The publisher, in whose name and with whose roles runs are started.
    created_by  text     not null,
    roles       text[]   not null,
    primary key (tenant_id, workflow_id, position)
);
create index triggers_by_source on workflow.triggers (tenant_id, kind, source);

create table workflow.schedules (
    tenant_id   uuid        not null,
    schedule_id text        not null,
    workflow_id text        not null,
    -- Made by a trigger of the workflow's envelope, and gone with it.
    managed     boolean     not null default false,
    cron        text        not null,
    time_zone   text        not null,
    overlap     text        not null check (overlap in ('SKIP', 'BUFFER_ONE', 'ALLOW')),
    jitter_s    integer     not null check (jitter_s between 0 and 3600),
    input       json        not null,
    paused      boolean     not null default false,
    -- The next time by the cron expression, and when its run is to start; null when there is none.
    next_at     timestamptz,
    due_at      timestamptz,
    -- A time whose run waits for the run before (BUFFER_ONE).
    buffered_at timestamptz,
    last_at     timestamptz,
    last_run    uuid,
    created_by  text        not null,
    roles       text[]      not null,
    created_at  timestamptz not null default now(),
    primary key (tenant_id, schedule_id)
);
create index schedules_due on workflow.schedules (due_at) where due_at is not null;

alter table workflow.triggers enable row level security;
alter table workflow.triggers force row level security;
alter table workflow.schedules enable row level security;
alter table workflow.schedules force row level security;

create policy tenant on workflow.triggers to tenon_workflow
    using (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid));
create policy tenant on workflow.schedules to tenon_workflow
    using (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid));
create policy system on workflow.triggers to tenon_workflow_system using (true) with check (true);
create policy system on workflow.schedules to tenon_workflow_system using (true) with check (true);

grant select, insert, delete on workflow.triggers to tenon_workflow;
grant select, insert, update, delete on workflow.schedules to tenon_workflow;
grant select on workflow.triggers to tenon_workflow_system;
grant select on workflow.schedules to tenon_workflow_system;
