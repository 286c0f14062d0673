//! One object as it arrives: made an object of the model at once, whatever is wrong with it kept apart.
//!
//! Nothing here fails. One object that cannot be read must not stop the list in which it stands.

use super::resource::Kind;
use crate::model::{ServiceName, Uid, intern};
use crate::source::Problem;
use crate::source::convert::{Object, from_value};
use serde_json::Value;

/// An object that arrived.
#[derive(Debug, Clone, PartialEq)]
pub struct Arrival {
    /// Namespace (empty for kinds without) and name.
    pub id: ServiceName,
    /// The identity of this very object, where something is to be told of it.
    pub uid: Option<Uid>,
    /// What it is to us: nothing if it is of no use to forwarding, the problem if it cannot be read.
    pub object: Result<Option<Object>, Problem>,
    /// What could not be used of it.
    pub problems: Vec<Problem>,
}

impl Arrival {
    /// Reads an object; everything that forwarding does not need is dropped here.
    pub fn read(kind: Kind, value: &Value) -> Self {
        let mut problems = Vec::new();
        let object = from_value(kind.name(), value, &mut problems);
        let text = |key: &str| value.pointer(key).and_then(Value::as_str).unwrap_or_default();
        let namespace = match kind {
            Kind::Service | Kind::OtherService | Kind::EndpointSlice => text("/metadata/namespace"),
            Kind::Node | Kind::ServiceCidr => "",
        };
        // One copy of the name, where the object has it already.
        let id = match &object {
            Ok(Some(Object::Service(service))) => service.name.clone(),
            Ok(Some(Object::Slice(service, slice))) => {
                ServiceName { namespace: service.namespace.clone(), name: slice.name.clone() }
            }
            _ => ServiceName::new(intern(namespace), text("/metadata/name")),
        };
        // Needed to tell of problems only, but for Services, which have it already.
        let uid = match &object {
            Ok(Some(Object::Service(service))) => service.uid.clone(),
            Ok(_) if problems.is_empty() => None,
            _ => Some(text("/metadata/uid")).filter(|uid| !uid.is_empty()).map(Uid::from),
        };
        Self { id, uid, object, problems }
    }
}

/// The version of an object, which is that of the whole list at that instant.
pub fn version(value: &Value) -> Option<String> {
    let text = value.pointer("/metadata/resourceVersion").and_then(Value::as_str);
    text.filter(|text| !text.is_empty()).map(str::to_owned)
}
