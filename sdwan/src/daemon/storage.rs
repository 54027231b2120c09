//! Trouble of the database, as events. They wait in memory while nothing can be written; the log and `sdwan status`
//! tell meanwhile.

use tokio::sync::watch;

use crate::engine::events::{EngineEvent, EventKind};
use crate::store::{Store, StoreHealth};

/// Sees the database fail and recover.
pub struct StorageWatch {
    health: watch::Receiver<StoreHealth>,
    /// What happened at the start, until it is told.
    moved_aside: Option<String>,
    trouble: Option<String>,
}

impl StorageWatch {
    /// Begins with what happened when the database was opened.
    pub fn new(store: &Store) -> Self {
        let health = store.watch_health();
        let moved_aside = health.borrow().moved_aside.clone();
        Self { health, moved_aside, trouble: None }
    }

    /// Waits for the next thing to tell. May be dropped at any time without losing one.
    pub async fn next(&mut self) -> EngineEvent {
        loop {
            if let Some(message) = self.moved_aside.take() {
                return EngineEvent::new(EventKind::StoreTrouble, message);
            }
            let trouble = self.health.borrow_and_update().trouble.clone();
            if trouble != self.trouble {
                self.trouble.clone_from(&trouble);
                let message = trouble.unwrap_or_else(|| "the database is written again".into());
                return EngineEvent::new(EventKind::StoreTrouble, message);
            }
            if self.health.changed().await.is_err() {
                // The writer is gone, and with it everything that there is to tell.
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_trouble_is_told_once_and_so_is_its_end() {
        let (sender, health) = watch::channel(StoreHealth::default());
        let mut watch = StorageWatch { health, moved_aside: Some("moved".into()), trouble: None };
        assert_eq!(watch.next().await.message, "moved");
        for errors in 1..=3 {
            let trouble = Some("full".to_owned());
            sender.send_replace(StoreHealth { errors, trouble, ..StoreHealth::default() });
            if errors == 1 {
                assert_eq!(watch.next().await.message, "full");
            }
        }
        sender.send_replace(StoreHealth { ok: true, ..StoreHealth::default() });
        assert_eq!(watch.next().await.message, "the database is written again");
    }
}
