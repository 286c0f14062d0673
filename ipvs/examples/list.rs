//! Prints the IPVS table of this network namespace: virtual servers, their destinations, connections and traffic.
//!
//! ```text
//! $ sudo target/debug/examples/list
//! IP Virtual Server version 1.2.1 (size=4096)
//! TCP 10.0.0.1:80 rr persistent 10800
//!   -> 10.1.0.1:8080 Masq weight 1 (2 active, 0 inactive, 14 packets in)
//! ```

use ipvs::{Client, Error};

fn main() -> Result<(), Error> {
    let mut client = Client::connect()?;
    println!("{}", client.info()?);
    for entry in client.services()? {
        println!("{}", entry.service);
        for destination in client.destinations(&entry.service.id)? {
            println!(
                "  -> {} ({} active, {} inactive, {} packets in)",
                destination.destination,
                destination.active_connections,
                destination.inactive_connections,
                destination.stats.incoming_packets,
            );
        }
    }
    for daemon in client.daemons()? {
        println!("daemon {daemon}");
    }
    println!("timeouts {}", client.timeouts()?);
    Ok(())
}
