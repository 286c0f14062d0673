//! What is said instead of a listing: help, version, and that nothing is changed.

use super::Refusal;
use std::path::Path;

/// Commands that change something are refused with `ipvsadm`'s exit code for what it does not understand.
pub fn refusal(command: &str) -> Refusal {
    Refusal::new(format!(
        "this is kube-ipvs under the name ipvsadm, which only reads: --{command} is refused and nothing was changed. \
         Change the Services in the cluster, or run the real ipvsadm"
    ))
}

/// `-v`
pub fn version() -> String {
    format!("ipvsadm v1.31 as kube-ipvs {} reads it (IPVS v1.2.1)\n", env!("CARGO_PKG_VERSION"))
}

/// `-h`
pub fn text(program: &Path) -> String {
    let program = program.display();
    format!(
        "{}Usage:
  {program} -L|l [virtual-service] [options]
  {program} -S [-n]
  {program} -h

Commands:
  --list            -L|-l     list the table
  --save            -S        save rules to stdout
  --version         -v        display the version
  --help            -h        display this help message
Commands that change the table are refused.

virtual-service:
  --tcp-service|-t  service-address   service-address is host[:port]
  --udp-service|-u  service-address   service-address is host[:port]
  --sctp-service    service-address   service-address is host[:port]
  --fwmark-service|-f fwmark          fwmark is an integer greater than zero

Options:
  --ipv6         -6                   fwmark entry uses IPv6
  --connection   -c                   output of current IPVS connections
  --timeout                           output of timeout (tcp tcpfin udp)
  --daemon                            output of daemon information
  --stats                             output of statistics information
  --rate                              output of rate information
  --exact        -X                   expand numbers (display exact values)
  --thresholds                        output of thresholds information
  --persistent-conn                   output of persistent connection info
  --tun-info                          output of tunnel information
  --nosort                            disable sorting output of service/server entries
  --sort                              does nothing, for backwards compatibility
  --numeric      -n                   numeric output of addresses and ports
",
        version()
    )
}
