//! What is asked of the API server: five kinds, and which objects of each.

use super::Interest;
use crate::model::ServiceName;
use std::borrow::Cow;

/// A kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Services.
    Service,
    /// Services that another proxy serves: their cluster IPs are within the service ranges and must not become ours.
    OtherService,
    /// EndpointSlices.
    EndpointSlice,
    /// Our own Node.
    Node,
    /// The cluster's service ranges.
    ServiceCidr,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Service, Self::OtherService, Self::EndpointSlice, Self::Node, Self::ServiceCidr];

    /// The name of the kind in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Service | Self::OtherService => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Node => "Node",
            Self::ServiceCidr => "ServiceCIDR",
        }
    }

    /// The path of the collection.
    pub fn path(self) -> &'static str {
        match self {
            Self::Service | Self::OtherService => "/api/v1/services",
            Self::EndpointSlice => "/apis/discovery.k8s.io/v1/endpointslices",
            Self::Node => "/api/v1/nodes",
            Self::ServiceCidr => "/apis/networking.k8s.io/v1/servicecidrs",
        }
    }

    /// The name of the collection.
    pub fn plural(self) -> &'static str {
        self.path().rsplit('/').next().unwrap_or_default()
    }

    /// What goes on without it, where that is possible: ServiceCIDRs came with Kubernetes 1.33, and a role made for an
    /// older proxy does not know of them.
    pub fn without(self) -> Option<&'static str> {
        match self {
            Self::Service | Self::OtherService | Self::EndpointSlice => None,
            Self::Node => Some("the node's zone and pod ranges are not known"),
            Self::ServiceCidr => Some("service ranges are those of --service-cidr"),
        }
    }
}

/// A kind, and which objects of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// The kind.
    pub kind: Kind,
    /// The only namespace, if it is only one.
    pub namespace: Option<&'static str>,
    /// Label selector.
    pub labels: Option<String>,
    /// Field selector.
    pub fields: Option<String>,
}

impl Resource {
    /// What a proxy for this node asks for. Selectors are upstream's (`Run`, cmd/kube-proxy/app/server.go): Services that
    /// are another proxy's and those without a cluster IP are not even sent. Slices are not asked for by the proxy's
    /// name when there is one: those made by hand need not repeat their Service's label.
    pub fn of(kind: Kind, node_name: &str, proxy_name: Option<&str>) -> Self {
        const PROXY: &str = "service.kubernetes.io/service-proxy-name";
        const HEADLESS: &str = "service.kubernetes.io/headless";
        let (labels, fields) = match (kind, proxy_name) {
            (Kind::Service, None) => (Some(format!("!{PROXY},!{HEADLESS}")), Some("spec.clusterIP!=None".to_owned())),
            (Kind::Service, Some(name)) => {
                (Some(format!("{PROXY}={name},!{HEADLESS}")), Some("spec.clusterIP!=None".to_owned()))
            }
            (Kind::OtherService, None) => (Some(PROXY.to_owned()), Some("spec.clusterIP!=None".to_owned())),
            (Kind::OtherService, Some(name)) => {
                (Some(format!("{PROXY},{PROXY}!={name}")), Some("spec.clusterIP!=None".to_owned()))
            }
            (Kind::EndpointSlice, None) => (Some(format!("!{PROXY},!{HEADLESS}")), None),
            (Kind::EndpointSlice, Some(_)) => (Some(format!("!{HEADLESS}")), None),
            (Kind::Node, _) => (None, Some(format!("metadata.name={node_name}"))),
            (Kind::ServiceCidr, _) => (None, None),
        };
        Self { kind, namespace: None, labels, fields }
    }

    /// What a new node needs before anything else, of a kind: the Service of the API server, or its slices. `None` where
    /// another proxy serves it.
    pub fn foremost(kind: Kind, interest: &Interest) -> Option<Self> {
        let all = Self::of(kind, &interest.node_name, interest.proxy_name.as_deref());
        let only =
            |selector: Option<String>, one: String| selector.into_iter().chain([one]).collect::<Vec<_>>().join(",");
        let (name, namespace) = (ServiceName::KUBERNETES, Some(ServiceName::KUBERNETES_NAMESPACE));
        match kind {
            _ if interest.proxy_name.is_some() => None,
            Kind::Service => {
                Some(Self { fields: Some(only(all.fields, format!("metadata.name={name}"))), namespace, ..all })
            }
            Kind::EndpointSlice => {
                let owned = format!("kubernetes.io/service-name={name}");
                Some(Self { labels: Some(only(all.labels, owned)), namespace, ..all })
            }
            Kind::OtherService | Kind::Node | Kind::ServiceCidr => None,
        }
    }

    /// The path of the collection.
    pub fn path(&self) -> Cow<'static, str> {
        let all = self.kind.path();
        match self.namespace {
            None => all.into(),
            Some(namespace) => {
                let (group, plural) = all.rsplit_once('/').unwrap_or(("", all));
                format!("{group}/namespaces/{namespace}/{plural}").into()
            }
        }
    }
}
