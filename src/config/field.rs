//! What is wrong with a field, in the words and the form of `k8s.io/apimachinery/pkg/util/validation/field`, so that
//! people find what they know, and what others wrote about it.

use serde_json::Value;
use std::fmt;

/// A field that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// The field, as kube-proxy names it: `KubeProxyConfiguration.Mode.ProxyMode`.
    pub path: String,
    problem: Problem,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Problem {
    Invalid(Value, String),
    Unsupported(Value, Vec<String>),
    Forbidden(String),
    Required(String),
}

impl FieldError {
    /// A value that is out of its range.
    pub fn invalid(path: impl Into<String>, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self { path: path.into(), problem: Problem::Invalid(value.into(), detail.into()) }
    }

    /// A value that is none of those that there are.
    pub fn unsupported(path: impl Into<String>, value: &str, supported: &[&str]) -> Self {
        let supported = supported.iter().map(|value| format!("{value:?}")).collect();
        Self { path: path.into(), problem: Problem::Unsupported(value.into(), supported) }
    }

    /// A field that must not be set now.
    pub fn forbidden(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { path: path.into(), problem: Problem::Forbidden(detail.into()) }
    }

    /// A field that must be set.
    pub fn required(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { path: path.into(), problem: Problem::Required(detail.into()) }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path)?;
        match &self.problem {
            Problem::Invalid(value, detail) => write!(f, "Invalid value: {value}: {detail}"),
            Problem::Unsupported(value, supported) => {
                write!(f, "Unsupported value: {value}: supported values: {}", supported.join(", "))
            }
            Problem::Forbidden(detail) => write!(f, "Forbidden: {detail}"),
            Problem::Required(detail) => write!(f, "Required value: {detail}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_upstreams_form() {
        let error = FieldError::invalid("A.B", "x\"y", "must be z");
        assert_eq!(error.to_string(), "A.B: Invalid value: \"x\\\"y\": must be z");
        assert_eq!(FieldError::invalid("A", -5, "no").to_string(), "A: Invalid value: -5: no");
        let error = FieldError::unsupported("A", "x", &["y", ""]);
        assert_eq!(error.to_string(), "A: Unsupported value: \"x\": supported values: \"y\", \"\"");
    }
}
