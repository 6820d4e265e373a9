//! `llm:chat`: chat completions of a service that speaks OpenAI's API, whose address and key are a secret of the tenant's.

use reqwest::{Method, header::AUTHORIZATION};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    Call, Tasks,
    arguments::{Field, Kind, optional, required},
    http, meter, parsed,
    references::{self, References},
};
use crate::asl::Failure;

pub(super) const FIELDS: &[Field] = &[
    required("secret", Kind::Any),
    required("model", Kind::Text),
    required("messages", Kind::List),
    optional("temperature", Kind::Number),
    optional("maxTokens", Kind::Count),
    optional("responseFormat", Kind::Object),
    optional("tools", Kind::List),
    optional("toolChoice", Kind::Any),
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Arguments {
    secret: Value,
    model: String,
    messages: Vec<Value>,
    temperature: Option<f64>,
    max_tokens: Option<u32>,
    response_format: Option<Value>,
    tools: Option<Value>,
    tool_choice: Option<Value>,
}

/// What the secret holds.
#[derive(Deserialize)]
struct Account {
    base_url: String,
    api_key: String,
}

impl Tasks {
    pub(super) async fn llm(&self, call: &Call) -> Result<Value, Failure> {
        let arguments: Arguments = parsed(&call.arguments)?;
        let name = arguments.secret.as_str().or_else(|| arguments.secret["$secret"].as_str());
        let name = name.ok_or_else(|| Failure::new("INVALID_ARGUMENTS", "secret must be the name of a secret"))?;
        let name = name.strip_prefix("secrets/").unwrap_or(name).to_owned();
        let (secret, _) = references::opened(&self.vault, call.tenant, &name).await?;
        let unusable = |why: &str| Failure::new("Llm.SecretUnusable", format!("the secret {name} {why}"));
        let account: Account = serde_json::from_str(secret.expose())
            .map_err(|_| unusable(r#"must be JSON: {"base_url": "https://...", "api_key": "..."}"#))?;
        // What the key is bound to is the address beside it: data of the run can send it nowhere else.
        let url = self.egress.url(&format!("{}/chat/completions", account.base_url.trim_end_matches('/')))?;
        if !self.egress.may_carry_secrets(&url) {
            return Err(unusable("has a base_url that is not https"));
        }
        let host = url.host_str().unwrap_or_default().to_owned();
        let wants_json = arguments.response_format.as_ref().is_some_and(|format| format["type"] != "text");
        let request = self.egress.request(Method::POST, url).json(&body(arguments));
        let request = request
            .header(AUTHORIZATION, format!("Bearer {}", account.api_key))
            .header("idempotency-key", &call.idempotency_key);
        let request = request.build().map_err(|_| unusable("holds a key that no header can carry"))?;
        let sent = async {
            let response = self.egress.send(request).await?;
            let open = References::of_one(&name, &account.api_key);
            http::answer(&host, response, &open, self.db.clock().now()).await
        };
        let answer = self.metered(call, sent.await).await?;
        let result = result(&answer["body"], wants_json)?;
        if let Some(tokens) = result["usage"]["total_tokens"].as_i64().filter(|tokens| *tokens > 0) {
            self.meter(call, meter::AI_TOKENS, tokens).await;
        }
        Ok(result)
    }
}

fn body(arguments: Arguments) -> Value {
    let Arguments { model, messages, temperature, max_tokens, response_format, tools, tool_choice, .. } = arguments;
    let mut body = Map::from_iter([("model".to_owned(), json!(model)), ("messages".to_owned(), json!(messages))]);
    let optional = [
        ("temperature", temperature.map(|value| json!(value))),
        ("max_tokens", max_tokens.map(|value| json!(value))),
        ("response_format", response_format),
        ("tools", tools),
        ("tool_choice", tool_choice),
    ];
    body.extend(optional.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    Value::Object(body)
}

/// The first choice, what it cost, and its JSON when it was asked for JSON.
fn result(answer: &Value, wants_json: bool) -> Result<Value, Failure> {
    let choice = &answer["choices"][0];
    if !choice["message"].is_object() {
        return Err(Failure::new("Llm.AnswerUnusable", "the answer has no choices[0].message"));
    }
    let content = &choice["message"]["content"];
    let mut result = json!({
        "content": content,
        "message": choice["message"],
        "finishReason": choice["finish_reason"],
        "model": answer["model"],
        "usage": answer["usage"],
    });
    if wants_json {
        let text = content.as_str().unwrap_or_default();
        let json = serde_json::from_str(text);
        let unusable =
            |_| Failure::new("Llm.AnswerUnusable", "the model was asked for JSON and answered something else");
        result["json"] = json.map_err(unusable)?;
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_choice_is_the_result() {
        let answer = json!({"model": "m", "usage": {"total_tokens": 7},
            "choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": "{\"a\": 1}"}}]});
        let shown = result(&answer, true).unwrap();
        assert_eq!((&shown["json"]["a"], &shown["usage"]["total_tokens"]), (&json!(1), &json!(7)));
        assert!(result(&answer, false).unwrap().get("json").is_none());
        assert_eq!(result(&json!({"choices": []}), false).unwrap_err().error, "Llm.AnswerUnusable");
        let prose = json!({"choices": [{"message": {"content": "sorry"}}]});
        assert_eq!(result(&prose, true).unwrap_err().error, "Llm.AnswerUnusable");
    }
}
