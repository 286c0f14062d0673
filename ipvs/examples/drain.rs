//! Adds a virtual server with two destinations, drains one of them, and deletes everything again.
//!
//! ```text
//! $ sudo unshare --net sh -c 'ip link set lo up; target/debug/examples/drain'
//! ```
//!
//! Deleting a destination makes the kernel drop the packets of its connections. So a destination is drained first:
//! weight 0 keeps new connections away, and it is deleted when its last connection has gone, or when time is up.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use ipvs::{Client, Command, Destination, Error, Protocol, Scheduler, Service, ServiceId};

/// How long connections may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> Result<(), Error> {
    let mut client = Client::connect()?;
    let service = ServiceId::new(Protocol::Tcp, IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 80);
    let stays = Destination::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), 8080, 1);
    let leaves = Destination::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2)), 8080, 1);

    // Many commands go to the kernel in one system call; each has its own result.
    let commands = [
        Command::AddService(Service::new(service, Scheduler::Wlc)),
        Command::AddDestination { service, destination: stays },
        Command::AddDestination { service, destination: leaves.clone() },
    ];
    for (command, result) in commands.iter().zip(client.execute_batch(&commands)) {
        result?;
        println!("{command}");
    }

    drain(&mut client, service, &leaves)?;

    client.execute(&Command::DeleteService(service))?;
    println!("{}", Command::DeleteService(service));
    Ok(())
}

fn drain(client: &mut Client, service: ServiceId, destination: &Destination) -> Result<(), Error> {
    let quiet = Command::SetDestination { service, destination: destination.clone().with_weight(0) };
    client.execute(&quiet)?;
    println!("{quiet}");

    let deadline = Instant::now() + PATIENCE;
    let place = destination.socket_address();
    while Instant::now() < deadline {
        let busy = client.destinations(&service)?.into_iter().any(|entry| {
            entry.destination.socket_address() == place && entry.active_connections + entry.inactive_connections > 0
        });
        if !busy {
            break;
        }
        std::thread::sleep(Duration::from_millis(500));
    }

    let delete = Command::DeleteDestination { service, address: destination.address, port: destination.port };
    client.execute(&delete)?;
    println!("{delete}");
    Ok(())
}
