-- App roles have no grant on the inbox. Should one ever get it, it sees its tenant's rows and no other's.
create policy tenant on mesh.inbox to tenon_auth, tenon_tenant, tenon_billing, tenon_workflow
    using (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid));
