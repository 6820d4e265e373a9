-- Host names of tenants' own, claimed, and proved by a TXT record.
create table tenant.domains (
    tenant_id     uuid        not null,
    hostname      text        not null check (length(hostname) between 3 and 236 and hostname = lower(hostname)),
    -- What the TXT record must say.
    token         text        not null,
    created_at    timestamptz not null,
    verified_at   timestamptz,
    checked_at    timestamptz,
    failing_since timestamptz,
    primary key (tenant_id, hostname),
    foreign key (tenant_id) references tenant.tenants (tenant_id) on delete cascade
);
-- Many may claim a name, one has it.
create unique index domains_verified on tenant.domains (hostname) where verified_at is not null;
create index domains_checked on tenant.domains (checked_at) where verified_at is not null;

alter table tenant.domains enable row level security;
alter table tenant.domains force row level security;
create policy tenant on tenant.domains to tenon_tenant using
    (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid));
create policy system on tenant.domains to tenon_tenant_system using (true);
grant select, insert, update, delete on tenant.domains to tenon_tenant;
grant select on tenant.domains to tenon_tenant_system;
