-- Plans, subscriptions and usage.
create schema if not exists billing;
grant usage on schema billing to tenon_billing, tenon_billing_system;

-- The price list is nobody's data: no tenant_id.
create table billing.plans (
    id           text     primary key check (id ~ '^[a-z][a-z0-9-]{0,62}$'),
    display_name text     not null,
    currency     text     not null check (length(currency) = 3),
    price_minor  bigint   not null check (price_minor >= 0),
    features     text[]   not null,
    -- Calls a minute by rate class, for the directory.
    limits       jsonb    not null
);

create table billing.plan_meters (
    plan_id    text    not null references billing.plans (id),
    meter      text    not null,
    included   bigint  not null check (included >= 0),
    -- Of the currency's major unit.
    unit_price numeric not null check (unit_price >= 0),
    primary key (plan_id, meter)
);

insert into billing.plans (id, display_name, currency, price_minor, features, limits) values
    ('free', 'Free', 'USD', 0, '{}', '{"rate.read": 1000, "rate.write": 300, "rate.ingest": 600}'),
    ('basic', 'Basic', 'USD', 4900, '{invoicing}', '{"rate.read": 6000, "rate.write": 1800, "rate.ingest": 6000}'),
    ('pro', 'Pro', 'USD', 19900, '{invoicing,sso}', '{"rate.read": 60000, "rate.write": 18000, "rate.ingest": 60000}');
insert into billing.plan_meters (plan_id, meter, included, unit_price) values
    ('free', 'workflow_runs', 1000, 0.01), ('free', 'ai_tokens', 10000, 0.00002),
    ('basic', 'workflow_runs', 20000, 0.005), ('basic', 'ai_tokens', 1000000, 0.00001),
    ('pro', 'workflow_runs', 200000, 0.002), ('pro', 'ai_tokens', 10000000, 0.000005);

create table billing.subscriptions (
    tenant_id    uuid        not null,
    id           uuid        not null,
    plan_id      text        not null references billing.plans (id),
    status       text        not null check (status in ('active')),
    period_start timestamptz not null,
    period_end   timestamptz not null check (period_end > period_start),
    created_at   timestamptz not null,
    primary key (tenant_id, id),
    constraint subscriptions_one unique (tenant_id)
);

create table billing.usage_events (
    tenant_id uuid        not null,
    -- The sender's id: what was counted is not counted again.
    id        text        not null check (length(id) between 1 and 128),
    meter     text        not null check (meter ~ '^[a-z0-9_]{1,64}$'),
    quantity  bigint      not null check (quantity > 0),
    time      timestamptz not null,
    primary key (tenant_id, id)
);
create index usage_events_time on billing.usage_events (tenant_id, time, meter) include (quantity);

do $$
declare name text;
begin
    foreach name in array array['subscriptions', 'usage_events'] loop
        execute format('alter table billing.%I enable row level security', name);
        execute format('alter table billing.%I force row level security', name);
        execute format('create policy tenant on billing.%I to tenon_billing using '
            '(tenant_id = (select nullif(current_setting(''app.tenant_id'', true), '''')::uuid))', name);
        execute format('create policy system on billing.%I to tenon_billing_system using (true)', name);
        execute format('grant select, insert, update on billing.%I to tenon_billing', name);
        execute format('grant select, insert on billing.%I to tenon_billing_system', name);
    end loop;
end $$;
grant select on billing.plans, billing.plan_meters to tenon_billing, tenon_billing_system;
