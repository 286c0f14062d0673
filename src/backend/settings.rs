//! What both modes want to know of the kernel's settings.

use super::ObserveError;
use crate::kernel::sysctl::{Ledger, ROUTE_LOCALNET, Setting, Sysctl};
use crate::model::IpFamily;

/// The settings that are not as they should be; those that this kernel does not have are left out.
pub fn unset_sysctls(sysctl: &Sysctl, wanted: &[Setting]) -> Result<Vec<Setting>, ObserveError> {
    let mut unset = Vec::new();
    for setting in wanted {
        match sysctl.read(setting.path) {
            Ok(value) if setting.is_satisfied_by(&value) => {}
            Ok(_) => unset.push(*setting),
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(ObserveError::new(format!("sysctl {}", setting.path), error)),
        }
    }
    Ok(unset)
}

/// Whether we have set `route_localnet`, be it in an earlier run or for another configuration. Who had noted that may be gone,
/// but then left its guard (`guarded`).
pub fn localnet_is_open(family: IpFamily, settings: &Ledger, guarded: bool) -> bool {
    let by_us = || settings.holds(ROUTE_LOCALNET) || guarded && settings.sysctl().is_on(ROUTE_LOCALNET);
    family == IpFamily::V4 && by_us()
}
