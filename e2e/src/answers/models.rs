//! The list of models.

use super::{Content, Making, Rendered};
use serde_json::json;

/// `GET …/models`, with the fields of both providers.
pub fn render(_: &Making<'_>) -> Rendered {
    let models: Vec<_> = ["gpt-4o-mini", "gpt-5", "text-embedding-3-small", "claude-sonnet-5"]
        .iter()
        .map(|id| {
            json!({
                "id": id,
                "object": "model",
                "type": "model",
                "display_name": id,
                "created": 1_715_367_049,
                "created_at": "2024-05-10T18:50:49Z",
                "owned_by": "system",
            })
        })
        .collect();
    let document =
        json!({"object": "list", "data": models, "has_more": false, "first_id": null, "last_id": null});
    Rendered {
        id: None,
        finish_reasons: Vec::new(),
        choices: Vec::new(),
        content: Content::Whole(document.to_string().into_bytes()),
    }
}
