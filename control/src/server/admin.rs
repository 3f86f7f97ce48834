//! The token of the first admin, and its file: whoever can read the folder has control. Cold.

use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::access::{Author, Bounds, Identity, Role};
use crate::log;
use crate::server::authority;
use crate::server::check::Checker;
use crate::server::tokens;
use crate::store::{Store, TokenChange};

const FILE: &str = "admin.token";

/// Somebody must be able to let others in: where no admin's token is good any more, there is another.
///
/// One that is good is left alone, though its secret is not in the folder: it may be kept in a better place.
pub(crate) async fn give(store: &Store, folder: &Path) -> Result<(), String> {
    let now_ms = jiff::Timestamp::now().as_millisecond();
    let tokens = store.tokens().borrow().clone();
    let is_admin = |token: &crate::store::Token| token.identity.role == Role::Admin && !token.is_over(now_ms);
    if !tokens.iter().any(|token| is_admin(token)) {
        return make(store, folder).await;
    }
    let path = folder.join(FILE);
    let secret = std::fs::read_to_string(&path).unwrap_or_default();
    if !tokens.find(secret.trim()).is_some_and(|token| is_admin(token)) {
        let (path, folder) = (path.display(), folder.display());
        log::tell(format_args!(
            "{path} has no admin's token: if nobody else has one, `evenkeel control reset-admin --data {folder}` makes \
             another, while control does not run"
        ));
    }
    Ok(())
}

/// Makes another token `admin` in the store of a folder that nobody runs at that time. The one before is none any more.
pub(crate) async fn reset_admin(folder: &Path) -> Result<(), String> {
    let store = Store::open_existing(folder, Box::new(Arc::new(Mutex::new(Checker::default()))));
    make(&store.map_err(|error| error.to_string())?, folder).await?;
    log::tell("the token `admin` from before is none any more");
    Ok(())
}

async fn make(store: &Store, folder: &Path) -> Result<(), String> {
    let identity = Identity { name: "admin".into(), role: Role::Admin, bounds: Bounds::default() };
    let author = Author::control();
    let now_ms = jiff::Timestamp::now().as_millisecond();
    let (token, secret) = tokens::mint(identity, None, author.name.clone(), now_ms);
    let path = folder.join(FILE);
    // First the file: a token that nobody has would be taken for one that somebody has.
    authority::write_secret(&path, &format!("{secret}\n"))?;
    let changed = store.change_token(TokenChange::Replace(token), author).await;
    changed.map_err(|refusal| format!("the admin's token cannot be kept: {refusal:?}"))?;
    log::tell(format_args!("the admin's token is in {}", path.display()));
    Ok(())
}
