-- How much of a meter that a plan limits (limits: quota.METER, units a period) a tenant has used, as it is counted.
create table billing.quotas (
    tenant_id    uuid        not null,
    meter        text        not null check (meter ~ '^[a-z0-9_]{1,64}$'),
    period_start timestamptz not null,
    period_end   timestamptz not null check (period_end > period_start),
    used         bigint      not null,
    -- Whether others were told that nothing is left.
    exhausted    boolean     not null default false,
    primary key (tenant_id, meter)
);
create index quotas_exhausted on billing.quotas (tenant_id, meter) where exhausted;

alter table billing.quotas enable row level security;
alter table billing.quotas force row level security;
create policy tenant on billing.quotas to tenon_billing
    using (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid));
create policy system on billing.quotas to tenon_billing_system using (true);
grant select, insert, update on billing.quotas to tenon_billing, tenon_billing_system;
