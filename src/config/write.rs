//! `--write-config-to`: the configuration as a file that `--config` reads.

use super::kubeproxy::{API_VERSION, KIND, KubeProxyConfiguration};
use saphyr::{LoadableYamlNode, Yaml, YamlEmitter};
use serde_json::Value;

/// The configuration as YAML, sorted by name as upstream's encoder sorts.
///
/// # Errors
/// Never, as far as is known; the emitter could fail in principle.
pub fn to_yaml(config: &KubeProxyConfiguration) -> anyhow::Result<String> {
    let mut value = serde_json::to_value(config)?;
    if let Value::Object(fields) = &mut value {
        fields.insert("apiVersion".into(), API_VERSION.into());
        fields.insert("kind".into(), KIND.into());
    }
    whole_numbers(&mut value);
    // JSON is YAML, which is all the conversion that it takes.
    let json = value.to_string();
    let documents = Yaml::load_from_str(&json)?;
    let mut text = String::new();
    for document in &documents {
        YamlEmitter::new(&mut text).dump(document)?;
    }
    Ok(text.trim_start_matches("---\n").to_owned() + "\n")
}

/// `5`, not `5.0`.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.values_mut().for_each(whole_numbers),
        Value::Number(number) => {
            let text = number.to_string();
            if let Some(Ok(whole)) = text.strip_suffix(".0").map(str::parse::<i64>) {
                *value = whole.into();
            }
        }
        _ => {}
    }
}
