//! The formats beside OpenAI's and Anthropic's: what each becomes, in pieces of any size, with and without content.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use agentsight_genai::call::{Api, Call, Operation, Outcome, Part};
use agentsight_genai::providers::{Found, Models, Scheme, Settings};
use agentsight_genai::semconv::{self, Options};
use agentsight_genai::telemetry::Value as Attribute;
use common::Exchange;
use serde_json::{Value, json};
use std::sync::Arc;

const NDJSON: &str = "application/x-ndjson";
const SSE: &str = "text/event-stream";
const JSON: &str = "application/json";

/// The call of an exchange: the same however it is cut, and without content none of it.
fn call(path: &str, request: &Value, kind: &str, response: &str) -> Call {
    let exchange = exchange(path, request, kind, response);
    let whole = exchange.call(true, usize::MAX).expect("a call");
    for piece in [1, 5, 33] {
        let cut = exchange.call(true, piece).expect("a call in pieces");
        assert_eq!(
            (&cut.request, &cut.response, &cut.outcome),
            (&whole.request, &whole.response, &whole.outcome)
        );
    }
    let bare = exchange.call(false, 7).expect("a call without content");
    assert_eq!(bare.response.usage, whole.response.usage);
    assert_eq!(std::mem::discriminant(&bare.outcome), std::mem::discriminant(&whole.outcome));
    assert_eq!(bare.response.finish_reasons, whole.response.finish_reasons);
    for text in [format!("{bare:?}"), format!("{:?}", semconv::span(&bare, &Options::default()))] {
        assert!(!text.contains("CANARY"), "{text}");
    }
    whole
}

fn exchange(path: &str, request: &Value, kind: &str, response: &str) -> Exchange {
    Exchange {
        path: path.to_owned(),
        request: request.to_string().into_bytes(),
        response_headers: vec![("content-type".to_owned(), kind.to_owned())],
        response: response.as_bytes().to_vec(),
        ..Exchange::default()
    }
}

fn lines(values: &[Value]) -> String {
    values.iter().map(|value| format!("{value}\n")).collect()
}

fn events(values: &[Value]) -> String {
    values.iter().map(|value| format!("data: {value}\r\n\r\n")).collect()
}

fn said(call: &Call) -> &[Part] {
    &call.response.content.as_ref().unwrap().messages[0].parts
}

fn asked(call: &Call) -> &[Part] {
    &call.request.content.as_ref().unwrap().messages[0].parts
}

fn reasons(call: &Call) -> Value {
    let span = semconv::span(call, &Options::default());
    match span.attributes.into_iter().find(|(key, _)| key == "gen_ai.response.finish_reasons") {
        Some((_, Attribute::Strs(reasons))) => json!(reasons),
        _ => Value::Null,
    }
}

#[test]
fn gemini_streams_as_events_and_as_one_array() {
    let request = json!({
        "contents": [{"role": "user", "parts": [{"text": "CANARY ask"}]}],
        "systemInstruction": {"parts": [{"text": "CANARY be brief"}]},
        "generationConfig": {"temperature": 0.5, "maxOutputTokens": 9, "thinkingConfig": {"thinkingLevel": "low"}},
        "tools": [{"functionDeclarations": [{"name": "look", "parametersJsonSchema": {}}]}, {"googleSearch": {}}]
    });
    let chunks = [
        json!({"candidates": [{"content": {"role": "model", "parts": [{"text": "CANARY hm", "thought": true}]}}],
            "responseId": "r1", "modelVersion": "gemini-x"}),
        json!({"candidates": [{"content": {"parts": [{"text": "CANARY "}, {"text": "answer"}]}}]}),
        json!({"candidates": [{"content": {"parts": [{"functionCall": {"name": "look", "args": {"at": "sky"}}}]},
            "finishReason": "STOP"}],
            "usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 7, "thoughtsTokenCount": 3,
            "cachedContentTokenCount": 2}}),
    ];
    let path = "/v1beta/models/gemini-x:streamGenerateContent";
    let array = format!("[{}]", chunks.iter().map(ToString::to_string).collect::<Vec<_>>().join(",\r\n"));
    for (kind, response) in [(SSE, events(&chunks)), ("application/json; charset=UTF-8", array)] {
        let call = call(path, &request, kind, &response);
        assert_eq!((call.operation, call.provider), (Operation::GenerateContent, "gcp.gemini"));
        assert_eq!(call.request.model.as_deref(), Some("gemini-x"));
        assert!(call.request.stream && call.timing.first_chunk.is_some());
        assert_eq!((call.request.temperature, call.request.max_tokens), (Some(0.5), Some(9)));
        let usage = call.response.usage;
        assert_eq!(
            (usage.input, usage.output, usage.reasoning, usage.cache_read),
            (Some(5), Some(10), Some(3), Some(2))
        );
        assert_eq!(
            said(&call)[..2],
            [Part::Reasoning("CANARY hm".into()), Part::Text("CANARY answer".into())]
        );
        assert!(matches!(&said(&call)[2], Part::ToolCall { name, .. } if name == "look"));
        assert_eq!(call.links.asks[0].name, "look");
        assert_eq!(reasons(&call), json!(["stop"]));
        assert_eq!(call.outcome, Outcome::Complete);
    }
}

#[test]
fn gemini_takes_both_spellings_of_a_field_and_leaves_alone_what_users_name() {
    let schema = json!({"type": "object", "properties": {"home_town": {"type": "string"}}});
    let camel = json!({
        "contents": [{"role": "user", "parts": [
            {"inlineData": {"mimeType": "image/png", "data": "CANARY"}},
            {"functionCall": {"name": "look", "args": {"home_town": "CANARY"}}},
        ]}],
        "systemInstruction": {"parts": [{"text": "CANARY be brief"}]},
        "generationConfig": {"topP": 0.5, "maxOutputTokens": 9, "stopSequences": ["x"],
            "responseMimeType": "application/json", "thinkingConfig": {"thinkingLevel": "low"}},
        "tools": [{"functionDeclarations": [{"name": "look", "parametersJsonSchema": schema}]}]
    });
    let snake = json!({
        "contents": [{"role": "user", "parts": [
            {"inline_data": {"mime_type": "image/png", "data": "CANARY"}},
            {"function_call": {"name": "look", "args": {"home_town": "CANARY"}}},
        ]}],
        "system_instruction": {"parts": [{"text": "CANARY be brief"}]},
        "generation_config": {"top_p": 0.5, "max_output_tokens": 9, "stop_sequences": ["x"],
            "response_mime_type": "application/json", "thinking_config": {"thinking_level": "low"}},
        "tools": [{"function_declarations": [{"name": "look", "parameters_json_schema": schema}]}]
    });
    let response =
        json!({"candidates": [{"content": {"parts": [{"text": "CANARY"}]}, "finishReason": "STOP"}]});
    let [camel, snake] = [camel, snake]
        .map(|request| call("/v1/models/g:generateContent", &request, JSON, &response.to_string()).request);
    assert_eq!(camel, snake);
    assert_eq!((camel.top_p, camel.max_tokens), (Some(0.5), Some(9)));
    assert_eq!((camel.output_type, camel.reasoning_level.as_deref()), (Some("json"), Some("low")));
    let content = camel.content.unwrap();
    assert_eq!(content.tools[0]["parameters"], schema);
    assert!(matches!(&content.messages[0].parts[1], Part::ToolCall { arguments: Some(arguments), .. }
        if arguments["home_town"] == "CANARY"));
}

#[test]
fn a_blocked_prompt_and_googles_errors_are_errors() {
    let request = json!({"contents": [{"parts": [{"text": "CANARY"}]}]});
    let path = "/v1beta/models/g:generateContent";
    for (response, wanted) in [
        (json!({"promptFeedback": {"blockReason": "SAFETY"}}), "BLOCKED_SAFETY"),
        (
            json!({"error": {"code": 429, "message": "CANARY", "status": "RESOURCE_EXHAUSTED"}}),
            "RESOURCE_EXHAUSTED",
        ),
    ] {
        let span = semconv::span(&call(path, &request, JSON, &response.to_string()), &Options::default());
        let error = span.attributes.iter().find(|(key, _)| key == "error.type").unwrap();
        assert_eq!(error.1, Attribute::Str(wanted.into()));
    }
}

#[test]
fn ollama_streams_lines() {
    let request = json!({"model": "llama3.2", "messages": [{"role": "user", "content": "CANARY ask"}],
        "options": {"temperature": 0.1, "num_predict": 20}});
    let line = |message: Value| json!({"model": "llama3.2", "message": message, "done": false});
    let response = lines(&[
        line(json!({"role": "assistant", "content": "", "thinking": "CANARY hm"})),
        line(json!({"role": "assistant", "content": "CANARY "})),
        line(json!({"role": "assistant", "content": "answer"})),
        json!({"model": "llama3.2", "message": {"role": "assistant", "content": ""}, "done": true, "done_reason": "stop",
            "prompt_eval_count": 26, "eval_count": 8}),
    ]);
    let call = call("/api/chat", &request, NDJSON, &response);
    assert_eq!((call.provider, call.operation, call.request.stream), ("ollama", Operation::Chat, true));
    assert_eq!((call.response.usage.input, call.response.usage.output), (Some(26), Some(8)));
    assert_eq!(said(&call), [Part::Reasoning("CANARY hm".into()), Part::Text("CANARY answer".into())]);
    assert_eq!((reasons(&call), asked(&call)), (json!(["stop"]), &[Part::Text("CANARY ask".into())][..]));
}

#[test]
fn ollama_answers_whole_and_makes_vectors() {
    let request = json!({"model": "m", "prompt": "CANARY ask", "stream": false});
    let whole = json!({"model": "m", "response": "CANARY answer", "done": true, "done_reason": "length", "eval_count": 3});
    let generated = call("/api/generate", &request, JSON, &whole.to_string());
    assert_eq!((generated.operation, generated.request.stream), (Operation::TextCompletion, false));
    assert_eq!(
        (said(&generated), reasons(&generated)),
        (&[Part::Text("CANARY answer".into())][..], json!(["length"]))
    );
    let request = json!({"model": "m", "input": ["CANARY"]});
    let vectors = json!({"model": "m", "embeddings": [[0.1, 0.2, 0.3]], "prompt_eval_count": 4});
    let embedded = call("/api/embed", &request, JSON, &vectors.to_string());
    assert_eq!((embedded.operation, embedded.response.dimensions), (Operation::Embeddings, Some(3)));
    assert_eq!(embedded.response.usage.input, Some(4));
}

#[test]
fn cohere_streams_in_both_versions() {
    let request = json!({"model": "command-a", "messages": [{"role": "user", "content": "CANARY ask"}], "stream": true, "p": 0.5});
    let response = events(&[
        json!({"type": "message-start", "id": "c1", "delta": {"message": {"role": "assistant", "content": []}}}),
        json!({"type": "tool-plan-delta", "delta": {"message": {"tool_plan": "CANARY plan"}}}),
        json!({"type": "content-start", "index": 0, "delta": {"message": {"content": {"type": "text", "text": ""}}}}),
        json!({"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": "CANARY answer"}}}}),
        json!({"type": "content-end", "index": 0}),
        json!({"type": "tool-call-start", "index": 0, "delta": {"message": {"tool_calls": {"id": "t1", "type": "function",
            "function": {"name": "look", "arguments": ""}}}}}),
        json!({"type": "tool-call-delta", "index": 0, "delta": {"message": {"tool_calls": {"function": {"arguments": "{\"a\":1}"}}}}}),
        json!({"type": "message-end", "delta": {"finish_reason": "TOOL_CALL", "usage":
            {"billed_units": {"input_tokens": 3, "output_tokens": 4}, "tokens": {"input_tokens": 70, "output_tokens": 9}}}}),
    ]);
    let second = call("/v2/chat", &request, SSE, &response);
    assert_eq!((second.provider, second.response.id.as_deref()), ("cohere", Some("c1")));
    assert_eq!((second.response.usage.input, second.response.usage.output), (Some(3), Some(4)));
    assert_eq!(
        said(&second)[..2],
        [Part::Reasoning("CANARY plan".into()), Part::Text("CANARY answer".into())]
    );
    assert!(matches!(&said(&second)[2], Part::ToolCall { id, arguments, .. }
        if id.as_deref() == Some("t1") && *arguments == Some(json!({"a": 1}))));
    assert_eq!((reasons(&second), second.links.asks.len()), (json!(["tool_call"]), 1));

    let request = json!({"message": "CANARY ask", "stream": true});
    let response = lines(&[
        json!({"event_type": "stream-start", "generation_id": "g1"}),
        json!({"event_type": "text-generation", "text": "CANARY "}),
        json!({"event_type": "text-generation", "text": "answer"}),
        json!({"event_type": "stream-end", "finish_reason": "COMPLETE", "response": {"generation_id": "g1",
            "text": "CANARY answer", "meta": {"billed_units": {"input_tokens": 1, "output_tokens": 2}}}}),
    ]);
    let first = call("/v1/chat", &request, "application/stream+json", &response);
    assert_eq!(said(&first), [Part::Text("CANARY answer".into())]);
    assert_eq!((reasons(&first), first.response.usage.output), (json!(["stop"]), Some(2)));
}

#[test]
fn servers_of_open_models_are_read() {
    let request = json!({"inputs": "CANARY ask", "parameters": {"max_new_tokens": 5, "stop": ["x"]}});
    let response = events(&[
        json!({"index": 1, "token": {"id": 1, "text": "CANARY "}, "generated_text": null, "details": null}),
        json!({"index": 2, "token": {"id": 2, "text": "answer"}, "generated_text": "CANARY answer",
            "details": {"finish_reason": "eos_token", "generated_tokens": 2, "input_length": 3}}),
    ]);
    let tgi = call("/generate_stream", &request, SSE, &response);
    assert_eq!((tgi.api, tgi.request.max_tokens, tgi.request.stream), (Api::TgiGenerate, Some(5), true));
    assert_eq!((said(&tgi), reasons(&tgi)), (&[Part::Text("CANARY answer".into())][..], json!(["stop"])));
    assert_eq!((tgi.response.usage.input, tgi.response.usage.output), (Some(3), Some(2)));

    let request = json!({"prompt": "CANARY ask", "n_predict": 2, "stream": true});
    let response = events(&[
        json!({"content": "CANARY answer", "stop": false}),
        json!({"content": "", "stop": true, "stop_type": "limit", "model": "q", "tokens_predicted": 2, "tokens_evaluated": 4}),
    ]);
    let llama = call("/completion", &request, SSE, &response);
    assert_eq!((llama.api, reasons(&llama)), (Api::LlamaCppCompletion, json!(["length"])));
    assert_eq!((llama.response.usage.input, llama.response.usage.output), (Some(4), Some(2)));

    let request = json!({"model": "rerank-x", "query": "CANARY", "documents": ["CANARY", "b"]});
    let response = json!({"id": "r", "results": [{"index": 1, "relevance_score": 0.5}]});
    let ranked = call("/v1/rerank", &request, JSON, &response.to_string());
    assert_eq!((ranked.operation, ranked.request.model.as_deref()), (Operation::Rerank, Some("rerank-x")));
}

#[test]
fn applications_with_the_same_paths_are_no_models() {
    let chat = json!({"model": "x", "messages": [{"role": "user", "content": "hi"}]});
    for (path, request) in [
        ("/api/chat", chat.clone()),
        ("/v1/chat", json!({"message": "hi"})),
        ("/generate", json!({"inputs": "a form"})),
        ("/completion", json!({"prompt": "a form"})),
        ("/rerank", json!({"query": "q", "documents": []})),
    ] {
        assert_eq!(exchange(path, &request, JSON, r#"{"ok":true}"#).call(true, 9), None, "{path}");
    }
}

#[test]
fn bedrock_names_its_errors_in_a_header_and_its_models_in_the_path() {
    let exchange = Exchange {
        status: 400,
        response_headers: vec![
            ("content-type".to_owned(), JSON.to_owned()),
            ("x-amzn-ErrorType".to_owned(), "ValidationException:http://internal".to_owned()),
        ],
        ..exchange(
            "/model/us.meta.llama3%3A0/converse",
            &json!({"messages": []}),
            JSON,
            r#"{"message":"no"}"#,
        )
    };
    let call = exchange.call(false, 3).unwrap();
    assert_eq!((call.provider, call.request.model.as_deref()), ("aws.bedrock", Some("us.meta.llama3:0")));
    let Outcome::Failed(failure) = &call.outcome else { panic!("{:?}", call.outcome) };
    assert_eq!(failure.code.as_deref(), Some("ValidationException"));
}

#[test]
fn the_port_of_plain_http_is_its_own() {
    use agentsight_genai::http::{End, Exchange as _, Exchanges as _, Headers, RequestHead};
    let head = RequestHead {
        method: "POST".to_owned(),
        path: "/api/chat".to_owned(),
        query: String::new(),
        authority: Some("ollama".to_owned()),
        headers: Headers::default(),
        at: agentsight_genai::time::Timestamp(1),
    };
    let mut models = Models::new(Arc::new(Settings::default())).over(Scheme::Http);
    let mut exchange = models.open(&head).unwrap();
    exchange.request_body(br#"{"model":"m","messages":[]}"#);
    exchange.request_end();
    let head = agentsight_genai::http::ResponseHead { status: 200, headers: Headers::default() };
    exchange.response_head(&head, agentsight_genai::time::Timestamp(2));
    exchange.response_body(br#"{"done":true,"message":{}}"#, agentsight_genai::time::Timestamp(3));
    let Some(Found::Call(call)) = exchange.finish(agentsight_genai::time::Timestamp(4), End::Complete) else {
        panic!("a call")
    };
    assert_eq!(call.server.unwrap().port, Some(80));
}
