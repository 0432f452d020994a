//! Schemas that are written by hand, since the derived ones are too wide or too long.

use schemars::{Schema, SchemaGenerator, json_schema};

/// A positive quantity such as `20Gi` or `500m`; the stock description alone has 2 KB.
pub fn quantity(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "maxLength": 32,
        "pattern": r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi|E|Ei)?$",
    })
}

/// Amounts by name, such as `{cpu: 500m, memory: 1Gi}`.
pub fn amounts(generator: &mut SchemaGenerator) -> Schema {
    let amount = quantity(generator);
    json_schema!({"type": "object", "maxProperties": 8, "additionalProperties": amount})
}

/// A level of consistency: a count of replicas, or a name.
pub fn level(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "minimum": 1,
        "maximum": 56,
        "maxLength": 12,
        "pattern": "^(one|quorum|all|local_one|local_quorum|each_quorum)$",
    })
}

/// An object that is kept as it is given.
pub fn free_form(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "default": {}})
}
