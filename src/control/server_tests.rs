//! The socket without a daemon behind it.

use super::*;
use crate::control::protocol::{Families, WishName};
use crate::control::{Client, ClientError};
use crate::reconcile::{Mode, Trigger, Wish};
use tokio::sync::mpsc;

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("kube-ipvs-control-{}-{name}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn switch(mode: WishName) -> Ask {
    Ask::Switch { mode, family: Families::V4, drain_ms: Some(5) }
}

#[tokio::test]
async fn many_requests_in_one_conversation() {
    let folder = folder("many");
    let path = folder.join("control.sock");
    let (sender, mut triggers) = mpsc::unbounded_channel();
    let (_, status) = watch::channel(reconcile::Status::default());
    let (_, snapshots) = watch::channel(crate::model::Snapshot::default());
    let running = tokio::spawn(Server::bind(&path).unwrap().run(Switcher::new(sender), status, snapshots));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let asking = path.clone();
    let client = tokio::task::spawn_blocking(move || {
        let mut client = Client::connect(&asking).unwrap();
        client.ask(Ask::Status).unwrap();
        assert!(matches!(client.answer().unwrap(), Event::Status { .. }));
        for _ in 0..2 {
            client.ask(switch(WishName::Ipvs)).unwrap();
            // The reconciler is gone before it has said how it ended.
            let Event::Failed { reason } = client.answer().unwrap() else { panic!("not refused") };
            assert_eq!(reason, "the daemon is stopping");
        }
    });
    for _ in 0..2 {
        let Some(Trigger::Switch(asked)) = triggers.recv().await else { panic!("no switch") };
        assert_eq!(asked.wish, Wish::Only(Mode::Ipvs));
        assert_eq!((asked.families.len(), asked.drain), (1, Some(Duration::from_millis(5))));
    }
    client.await.unwrap();
    running.abort();
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_is_no_request_is_told() {
    let wrong = |line: &str| understand(line).unwrap_err().1;
    assert!(wrong("switch!").contains("no line of JSON"));
    assert!(wrong(r#"{"version":2,"request":"status"}"#).contains("speaks version 1"), "{}", wrong("{}"));
    assert!(wrong(r#"{"request":"status"}"#).contains("the request has none"));
    assert!(wrong(r#"{"version":1,"request":"reboot"}"#).contains("not understood"));
    assert_eq!(understand(r#"{"version":1,"id":9,"request":1}"#).unwrap_err().0, 9);
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_nothing_else() {
    let folder = folder("stale");
    let path = folder.join("control.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "as a killed daemon leaves it");
    assert!(matches!(Client::connect(&path), Err(ClientError::NoDaemon { .. })));
    let first = Server::bind(&path).unwrap();
    let error = Server::bind(&path).unwrap_err().to_string();
    assert!(error.contains("another daemon answers there"), "{error}");
    drop(first);
    assert!(!path.exists());
    fs::write(&path, "precious").unwrap();
    let error = Server::bind(&path).unwrap_err().to_string();
    assert!(error.contains("no socket"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    fs::remove_dir_all(folder).unwrap();
}
