//! Whether the server can serve, and whether it does.

use std::time::Duration;

use crate::coordinator::Coordinator;

/// How long the coordinator's lock and the database may take.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Alive: its lock can be had and its database answers. In words what cannot.
pub async fn alive(coordinator: &Coordinator) -> Result<(), String> {
    let lock = tokio::time::timeout(PATIENCE, coordinator.idle()).await;
    lock.map_err(|_| "the coordinator does not answer".to_owned())?;
    match tokio::time::timeout(PATIENCE, coordinator.database().last_event()).await {
        Ok(Ok(_)) => Ok(()),
        // Why is the log's to say: it may name paths.
        Ok(Err(error)) => {
            tracing::error!(%error, "the database does not answer");
            Err("the database fails; the server's log says why".into())
        }
        Err(_) => Err("the database does not answer".into()),
    }
}

/// Ready: calls are served now. In words why not.
pub fn ready(coordinator: &Coordinator) -> Result<(), String> {
    if *coordinator.closing().borrow() {
        return Err("shutting down".into());
    }
    if let Some(why) = coordinator.paused() {
        return Err(format!("paused: {why}"));
    }
    let (credentials, now) = (
        coordinator.gate().credentials(),
        coordinator.now().to_system(),
    );
    let certificate = credentials.certificate().validity();
    if !certificate.contains(now) {
        return Err(format!(
            "the server's certificate does not hold now (from {} to {})",
            certificate.start(),
            certificate.end()
        ));
    }
    let list = credentials.revocations();
    if !list.holds(now) {
        return Err(format!(
            "the revocation list does not hold now (from {} to {}): everybody is refused",
            list.validity().start(),
            list.validity().end()
        ));
    }
    let policy = coordinator.federation().policy();
    let issued = coordinator.gate().list().issued_at;
    policy
        .admit_revocation_list(issued, now.into())
        .map_err(|refusal| refusal.to_string())
}
