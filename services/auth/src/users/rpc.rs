//! tenon.auth.v1.UserService

use serde_json::json;
use tenon_chassis::{Caller, UserId, clock::timestamp, paging::Page};
use tenon_proto::auth::v1::{
    CreateUserRequest, GetUserRequest, ListUsersRequest, ListUsersResponse, ProvisionAdminRequest, User as PbUser,
    user_service_server::UserService,
};
use tonic::{Request, Response, Status};

use super::{
    Users,
    model::{Email, User, check_password, check_roles},
    store,
};
use crate::error::Error;

#[tonic::async_trait]
impl UserService for Users {
    async fn create_user(&self, request: Request<CreateUserRequest>) -> Result<Response<PbUser>, Status> {
        let caller = Caller::of(&request)?;
        let CreateUserRequest { email, password, roles } = request.into_inner();
        let email = Email::parse("email", &email)?;
        check_password("password", &password)?;
        check_roles("roles", &roles)?;
        let password_hash = self.hasher.hash(password).await?;
        let mut tx = self.db.begin(&caller).await?;
        let (id, created_at) = (UserId::new(tx.clock()), tx.clock().now());
        let user = User { id, email, password_hash, roles, created_at };
        store::insert(&mut tx, &user).await?;
        tx.emit("tenon.auth.user.created.v1", format!("users/{id}"), json!({ "roles": user.roles }));
        Ok(tx.reply(user.into()).await?)
    }

    async fn get_user(&self, request: Request<GetUserRequest>) -> Result<Response<PbUser>, Status> {
        let caller = Caller::of(&request)?;
        let id = parse_name(&request.get_ref().name)?;
        let mut tx = self.db.begin(&caller).await?;
        let user = store::get(&mut tx, id).await?;
        Ok(tx.reply(user.into()).await?)
    }

    async fn list_users(&self, request: Request<ListUsersRequest>) -> Result<Response<ListUsersResponse>, Status> {
        let caller = Caller::of(&request)?;
        let page = Page::parse(request.get_ref().page_size, &request.get_ref().page_token)?;
        let mut tx = self.db.begin(&caller).await?;
        let rows = store::list(&mut tx, &page).await?;
        let (rows, next_page_token) = page.cut(rows, |user| user.id.uuid());
        let users = rows.into_iter().map(PbUser::from).collect();
        Ok(tx.reply(ListUsersResponse { users, next_page_token }).await?)
    }

    async fn provision_admin(&self, request: Request<ProvisionAdminRequest>) -> Result<Response<PbUser>, Status> {
        let caller = Caller::of(&request)?;
        let ProvisionAdminRequest { email, password } = request.into_inner();
        let email = Email::parse("email", &email)?;
        check_password("password", &password)?;
        let password_hash = self.hasher.hash(password).await?;
        let mut tx = self.db.begin(&caller).await?;
        self.keys.provision(&mut tx).await?;
        if let Some(user) = store::get_by_email(&mut tx, &email).await? {
            return Ok(tx.reply(user.into()).await?);
        }
        let (id, created_at) = (UserId::new(tx.clock()), tx.clock().now());
        let user = User { id, email, password_hash, roles: vec!["admin".to_owned()], created_at };
        store::insert(&mut tx, &user).await?;
        tx.emit("tenon.auth.user.created.v1", format!("users/{id}"), json!({ "roles": user.roles }));
        Ok(tx.reply(user.into()).await?)
    }
}

fn parse_name(name: &str) -> Result<UserId, Error> {
    name.strip_prefix("users/").and_then(|id| id.parse().ok()).ok_or(Error::UserNotFound)
}

impl From<User> for PbUser {
    fn from(user: User) -> Self {
        let create_time = timestamp(user.created_at);
        let name = format!("users/{}", user.id);
        Self { name, email: user.email.given, roles: user.roles, create_time: Some(create_time) }
    }
}
