//! Builds anew when a migration was added: sqlx::migrate! embeds the folder, and cargo does not watch it by itself.

fn main() {
    println!("cargo:rerun-if-changed=../migrations");
}
