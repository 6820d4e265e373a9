-- What the engine needs to hold back, wake and control runs: what runs wait for, the mailbox of each run, pauses, starts
-- that are made once, and a history that is written by the step instead of by the event.

alter table workflow.runs
    drop column cancel_reason,
    -- Messages that were ever sent to the run. A step that writes sees by it that one came meanwhile.
    add column mail integer not null default 0,
    add column attributes jsonb not null default '{}' check (jsonb_typeof(attributes) = 'object'),
    -- At most `concurrency_limit` runs of a workflow with the same key are at work; the others are QUEUED.
    add column concurrency_key text check (length(concurrency_key) <= 256),
    add column concurrency_limit integer check (concurrency_limit > 0),
    -- The run, and its wait, that this one answers to.
    add column parent_run uuid,
    add column parent_token bigint,
    add column parent_close text check (parent_close in ('CANCEL', 'TERMINATE', 'ABANDON')),
    -- How many runs stand above it: a workflow cannot start itself without end.
    add column depth smallint not null default 0,
    add column trigger text not null default 'api' check (trigger in ('api', 'cron', 'event', 'webhook', 'workflow')),
    -- Who paused it; absent while it may go on.
    add column paused text,
    -- When it is deleted; set when it ends.
    add column purge_at timestamptz,
    -- Absent: nothing to do until a message comes. infinity: an engine has it in memory. Else when to look at it.
    alter column due_at drop not null,
    drop constraint runs_state_check,
    drop constraint runs_check,
    add constraint runs_state_check
        check (state in ('QUEUED', 'RUNNING', 'SUCCEEDED', 'FAILED', 'TIMED_OUT', 'CANCELLED')),
    add constraint runs_ended_check check ((state in ('QUEUED', 'RUNNING')) = (ended_at is null));
update workflow.runs set due_at = null where ended_at is not null;

drop index workflow.runs_due;
drop index workflow.runs_by_entity;
drop index workflow.runs_by_state;
create index runs_due on workflow.runs (partition, due_at) where due_at is not null;
create index runs_by_entity on workflow.runs (tenant_id, entity_id, id) where entity_id <> '';
-- Most runs have succeeded: a list of those reads the primary key.
create index runs_by_state on workflow.runs (tenant_id, state, id) where state <> 'SUCCEEDED';
create index runs_by_key on workflow.runs (tenant_id, workflow_id, concurrency_key, state, id)
    where concurrency_key is not null and state in ('QUEUED', 'RUNNING');
create index runs_by_parent on workflow.runs (tenant_id, parent_run) where parent_run is not null and ended_at is null;
-- Rows are added about in the order in which they are to go.
create index runs_purge on workflow.runs using brin (purge_at) with (autosummarize = on);
-- Versions are never deleted, and a run is added with the version that its insert has just read: to check that again, with a
-- lock on the one row that all runs of a workflow share, costs more than adding the run.
alter table workflow.runs drop constraint runs_tenant_id_workflow_id_version_fkey;

-- The attributes of runs once more, to search by: no operator of jsonb uses an index under row-level security.
create table workflow.attributes (
    tenant_id uuid not null,
    name      text not null check (length(name) between 1 and 64),
    value     text not null check (length(value) <= 256),
    run_id    uuid not null,
    primary key (tenant_id, name, value, run_id)
);
create index attributes_by_run on workflow.attributes (tenant_id, run_id);

grant update (mail, due_at, state, ended_at, paused) on workflow.runs to tenon_workflow;
grant insert, delete on workflow.runs to tenon_workflow_system;

-- What runs wait for that is answered from outside: a worker, a person, a signal, another run. A row is written with the
-- step that asks, and deleted with the step that has no more use for it.
create table workflow.tasks (
    tenant_id         uuid        not null,
    run_id            uuid        not null,
    token             bigint      not null,
    kind              text        not null check (kind in ('activity', 'approval', 'signal', 'workflow')),
    -- The queue, the signal, the workflow.
    name              text        not null,
    arguments         json        not null,
    state             text        not null default 'OPEN' check (state in ('OPEN', 'CLAIMED')),
    -- Names one claim: a worker that lost it can be told from the one that has it.
    attempt           uuid,
    worker            text,
    timeout_seconds   integer,
    heartbeat_seconds integer,
    heartbeat_at      timestamptz,
    created_at        timestamptz not null default now(),
    traceparent       text,
    roles             text[]      not null,
    primary key (tenant_id, run_id, token)
);
create index tasks_open on workflow.tasks (tenant_id, kind, name, created_at) where state = 'OPEN';

-- The mailbox of a run. Whoever has something for it adds a message and makes the run due in the same transaction; the
-- engine deletes the message with the step that it led to. A signal stays until something waits for it.
create table workflow.messages (
    tenant_id  uuid        not null,
    run_id     uuid        not null,
    id         uuid        not null,
    -- The order in which the run takes them.
    seq        bigint      generated always as identity,
    partition  smallint    not null,
    kind       text        not null
               check (kind in ('TASK_DONE', 'TASK_FAILED', 'HEARTBEAT', 'SIGNAL', 'CANCEL', 'TERMINATE', 'PAUSE', 'RESUME')),
    token      bigint,
    name       text,
    payload    json,
    created_at timestamptz not null default now(),
    primary key (tenant_id, run_id, id)
);

-- What a tenant has paused: one workflow, or with '' all of them.
create table workflow.pauses (
    tenant_id   uuid        not null,
    workflow_id text        not null,
    paused_by   text        not null,
    reason      text        not null default '',
    created_at  timestamptz not null default now(),
    primary key (tenant_id, workflow_id)
);

-- Starts under a key of the caller's: the same key with the same request is the same run.
create table workflow.run_keys (
    tenant_id    uuid        not null,
    key          text        not null check (length(key) between 1 and 255),
    request_hash bytea       not null,
    run_id       uuid        not null,
    expires_at   timestamptz not null,
    primary key (tenant_id, key)
);
create index run_keys_expires on workflow.run_keys (expires_at);

-- One row a step, with all its events: [[previous id, type, state, details], ...], whose ids count up from first_id. A run's
-- id begins with the time of its start, so that partitions of ids are partitions of time, and a run's rows are in one.
alter table workflow.history rename to history_events;
create table workflow.history (
    tenant_id uuid        not null,
    run_id    uuid        not null,
    first_id  bigint      not null,
    last_id   bigint      not null,
    time      timestamptz not null,
    events    json        not null,
    constraint history_steps_pkey primary key (tenant_id, run_id, first_id)
) partition by range (run_id);
create table workflow.history_rest partition of workflow.history default;

-- The first UUIDv7 of a time.
create function workflow.first_uuid(at timestamptz) returns uuid language sql immutable as $$
    select (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

-- Makes the partitions of this week and of some weeks ahead, and drops those of past weeks that are empty. It is the
-- owner's, because engines own nothing.
create function workflow.keep_history(weeks integer) returns void language plpgsql security definer
    set search_path = pg_catalog, pg_temp as $$
declare
    start timestamptz := date_trunc('week', now() at time zone 'UTC') at time zone 'UTC';
    name text;
    old record;
    filled boolean;
begin
    -- One at a time: two would make the same partition.
    perform pg_advisory_xact_lock(hashtextextended('workflow.history', 0));
    for week in 0..weeks loop
        name := 'history_' || to_char((start + week * interval '7 days') at time zone 'UTC', 'IYYY"w"IW');
        if to_regclass('workflow.' || name) is null then
            begin
                execute format('create table workflow.%I partition of workflow.history for values from (%L) to (%L)', name,
                    workflow.first_uuid(start + week * interval '7 days'),
                    workflow.first_uuid(start + (week + 1) * interval '7 days'));
                execute format('alter table workflow.%I enable row level security', name);
                execute format('alter table workflow.%I force row level security', name);
            exception when check_violation then
                -- Rows of that week are in the rest already, and stay there.
                null;
            end;
        end if;
    end loop;
    for old in select c.oid::regclass as part from pg_inherits i join pg_class c on c.oid = i.inhrelid
               where i.inhparent = 'workflow.history'::regclass and c.relname ~ '^history_\d{4}w\d\d$'
                 and c.relname < 'history_' || to_char((start - interval '7 days') at time zone 'UTC', 'IYYY"w"IW') loop
        execute format('select exists (select from %s)', old.part) into filled;
        if not filled then
            execute format('drop table %s', old.part);
        end if;
    end loop;
end
$$;
revoke execute on function workflow.keep_history(integer) from public;
grant execute on function workflow.keep_history(integer) to tenon_workflow_system;

alter table workflow.history enable row level security;
alter table workflow.history force row level security;
alter table workflow.history_rest enable row level security;
alter table workflow.history_rest force row level security;
insert into workflow.history (tenant_id, run_id, first_id, last_id, time, events)
    select tenant_id, run_id, min(id), max(id), time,
           json_agg(json_build_array(previous_id, type, state, details) order by id)
    from workflow.history_events group by tenant_id, run_id, time;
drop table workflow.history_events;
alter table workflow.history rename constraint history_steps_pkey to history_pkey;
select workflow.keep_history(4);

alter table workflow.attributes enable row level security;
alter table workflow.attributes force row level security;
alter table workflow.tasks enable row level security;
alter table workflow.tasks force row level security;
alter table workflow.messages enable row level security;
alter table workflow.messages force row level security;
alter table workflow.pauses enable row level security;
alter table workflow.pauses force row level security;
alter table workflow.run_keys enable row level security;
alter table workflow.run_keys force row level security;

create policy tenant on workflow.history to tenon_workflow
    using (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid));
create policy tenant on workflow.attributes to tenon_workflow
    using (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid));
create policy tenant on workflow.tasks to tenon_workflow
    using (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid));
create policy tenant on workflow.messages to tenon_workflow
    using (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid));
create policy tenant on workflow.pauses to tenon_workflow
    using (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid));
create policy tenant on workflow.run_keys to tenon_workflow
    using (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid));
create policy system on workflow.history to tenon_workflow_system using (true) with check (true);
create policy system on workflow.attributes to tenon_workflow_system using (true) with check (true);
create policy system on workflow.tasks to tenon_workflow_system using (true) with check (true);
create policy system on workflow.messages to tenon_workflow_system using (true) with check (true);
create policy system on workflow.pauses to tenon_workflow_system using (true) with check (true);
create policy system on workflow.run_keys to tenon_workflow_system using (true) with check (true);

grant select on workflow.history to tenon_workflow;
grant select, insert on workflow.attributes to tenon_workflow;
grant select, update, delete on workflow.tasks to tenon_workflow;
grant select, insert on workflow.messages to tenon_workflow;
grant select, insert, update, delete on workflow.pauses to tenon_workflow;
grant select, insert, update on workflow.run_keys to tenon_workflow;
grant select, insert, delete on workflow.history to tenon_workflow_system;
grant select, insert, delete on workflow.attributes to tenon_workflow_system;
grant select, insert, update, delete on workflow.tasks to tenon_workflow_system;
grant select, insert, update, delete on workflow.messages to tenon_workflow_system;
grant select, insert, update, delete on workflow.pauses to tenon_workflow_system;
grant select, insert, delete on workflow.run_keys to tenon_workflow_system;
