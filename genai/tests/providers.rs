//! What each provider's format becomes: from decoded HTTP messages to calls, and on to spans and measurements.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use agentsight_genai::call::{Api, Call, Operation, Outcome, Part, Usage};
use agentsight_genai::http::{Direction, End};
use agentsight_genai::providers::{Endpoint, Found, Settings, UnknownEndpoint};
use agentsight_genai::redact::Redactor;
use agentsight_genai::semconv::{self, Options, Vintage};
use agentsight_genai::telemetry::{Amount, Span, Status, Value};
use common::Exchange;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";
const MESSAGES: &str = "/v1/messages";

/// Every recording with the path that it belongs to.
const RECORDINGS: &[(&str, &str)] = &[
    (CHAT, "chat"),
    (CHAT, "chat-stream"),
    (CHAT, "chat-reasoning-stream"),
    (RESPONSES, "responses"),
    (RESPONSES, "responses-stream"),
    (MESSAGES, "anthropic"),
    (MESSAGES, "anthropic-stream"),
    ("/v1/embeddings", "embeddings"),
    ("/v1/completions", "completions"),
];

fn recorded(path: &str, name: &str) -> Call {
    Exchange::recorded(path, name).call(true, usize::MAX).expect("a call")
}

fn with_content() -> Options {
    Options { content: true, ..Options::default() }
}

fn attribute(span: &Span, key: &str) -> Json {
    match span.attributes.iter().find(|(own, _)| own == key).map(|(_, value)| value) {
        None => Json::Null,
        Some(Value::Str(text)) => json!(text),
        Some(Value::Int(int)) => json!(int),
        Some(Value::Double(double)) => json!(double),
        Some(Value::Bool(bool)) => json!(bool),
        Some(Value::Strs(texts)) => json!(texts),
    }
}

fn content(call: &Call, key: &str) -> Json {
    let span = semconv::span(call, &with_content());
    serde_json::from_str(attribute(&span, key).as_str().expect(key)).unwrap()
}

fn output_parts(call: &Call) -> &[Part] {
    &call.response.content.as_ref().unwrap().messages[0].parts
}

/// A chat with this request and this response.
fn chat(request: &Json, response: &Json) -> Exchange {
    Exchange {
        request: request.to_string().into_bytes(),
        response: response.to_string().into_bytes(),
        response_headers: vec![("content-type".to_owned(), "application/json".to_owned())],
        ..Exchange::default()
    }
}

fn ask() -> Json {
    json!({"model": "m", "messages": [{"role": "user", "content": "CANARY"}]})
}

/// A streamed chat whose response is this text.
fn stream(text: &str) -> Exchange {
    Exchange {
        request: json!({"model": "m", "messages": [], "stream": true}).to_string().into_bytes(),
        response: text.as_bytes().to_vec(),
        response_headers: vec![("content-type".to_owned(), "text/event-stream".to_owned())],
        ..Exchange::default()
    }
}

fn events(events: &[Json]) -> String {
    events.iter().map(|event| format!("data: {event}\n\n")).collect()
}

fn delta(delta: &Json) -> Json {
    json!({"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta}]})
}

// Recognition.

#[test]
fn a_call_is_recognised_on_any_host_under_any_prefix() {
    for path in [
        "/v1/chat/completions",
        "/openai/v1/chat/completions",
        "/api/v1/chat/completions/",
        "/chat/completions",
    ] {
        let exchange = Exchange { path: path.to_owned(), ..chat(&ask(), &json!({"choices": []})) };
        assert_eq!(exchange.call(false, 9).unwrap().api, Api::OpenAiChat, "{path}");
    }
}

#[test]
fn what_only_looks_like_a_call_by_its_path_is_none() {
    let app = json!({"text": "hello", "channel": 3});
    for path in ["/api/messages", "/survey/responses", "/embeddings", "/completions", CHAT] {
        let exchange = Exchange { path: path.to_owned(), ..chat(&app, &json!({"ok": true})) };
        assert_eq!(exchange.call(false, 9), None, "{path}");
    }
    let app = json!({"messages": [{"text": "hi"}], "model": "x"});
    assert_eq!(Exchange { path: "/api/messages".to_owned(), ..chat(&app, &json!({})) }.call(false, 9), None);
}

#[test]
fn requests_beside_the_calls_are_none() {
    for path in [
        "/v1/messages/count_tokens",
        "/v1/messages/batches",
        "/v1/responses/resp_1/cancel",
        "/v1/responses/resp_1",
        "/v1/responses/resp_1/input_items",
        "/v1/responses/compact",
    ] {
        let body = json!({"model": "m", "max_tokens": 1, "messages": [], "input": "x"});
        let exchange = Exchange { path: path.to_owned(), ..chat(&body, &json!({})) };
        assert_eq!(exchange.call(false, 9), None, "{path}");
    }
    let get = Exchange { method: "GET".to_owned(), ..chat(&ask(), &json!({})) };
    assert_eq!(get.call(false, 9), None);
}

#[test]
fn the_host_names_the_provider() {
    for (host, path, provider) in [
        ("api.openai.com", CHAT, "openai"),
        ("vllm.models.svc:8000", CHAT, "openai"),
        ("api.groq.com", CHAT, "groq"),
        ("api.deepseek.com", CHAT, "deepseek"),
        ("api.x.ai", CHAT, "x_ai"),
        ("api.mistral.ai", CHAT, "mistral_ai"),
        ("api.perplexity.ai", "/chat/completions", "perplexity"),
        ("me.openai.azure.com", "/openai/deployments/d/chat/completions", "azure.ai.openai"),
        ("me.services.ai.azure.com", "/models/chat/completions", "azure.ai.inference"),
        ("me.services.ai.azure.com", "/openai/v1/chat/completions", "azure.ai.openai"),
        ("notapi.x.ai.example.com", CHAT, "openai"),
    ] {
        let exchange = Exchange {
            host: host.to_owned(),
            path: path.to_owned(),
            ..chat(&ask(), &json!({"choices": []}))
        };
        assert_eq!(exchange.call(false, 9).unwrap().provider, provider, "{host}");
    }
}

#[test]
fn the_server_is_where_the_request_says_that_it_goes() {
    for (host, address, port) in [
        ("api.openai.com", "api.openai.com", 443),
        ("llm.example:8443", "llm.example", 8443),
        ("[::1]:9000", "::1", 9000),
    ] {
        let call = Exchange { host: host.to_owned(), ..chat(&ask(), &json!({})) }.call(false, 9).unwrap();
        let server = call.server.unwrap();
        assert_eq!((server.address.as_str(), server.port), (address, Some(port)));
    }
}

#[test]
fn azure_names_the_model_in_its_path() {
    let exchange = Exchange {
        host: "me.openai.azure.com".to_owned(),
        path: "/openai/deployments/my-gpt/chat/completions".to_owned(),
        ..chat(&json!({"messages": []}), &json!({"choices": []}))
    };
    assert_eq!(exchange.call(false, 9).unwrap().request.model.as_deref(), Some("my-gpt"));
}

#[test]
fn a_named_endpoint_is_read_by_its_format() {
    let settings = Settings {
        endpoints: vec![Endpoint {
            host: Some("llm.example".to_owned()),
            path: "/generate".to_owned(),
            api: Api::OpenAiChat,
        }],
        ..Settings::default()
    };
    let exchange = Exchange { path: "/v2/generate".to_owned(), ..chat(&ask(), &json!({"choices": []})) };
    assert!(matches!(exchange.found(&settings, &[]), Some(Found::Call(_))));
}

#[test]
fn an_unknown_endpoint_that_looks_like_a_model_is_named_without_ids() {
    let gemini = json!({"contents": [{"parts": [{"text": "CANARY"}]}]});
    let mut exchange = chat(&gemini, &json!({}));
    exchange.path = "/v1/projects/4711000815/models/gemini:ask".to_owned();
    exchange.request_headers.push(("content-type".to_owned(), "application/json".to_owned()));
    let found = exchange.found(&Settings::default(), &[5]);
    let endpoint = UnknownEndpoint {
        host: "llm.example".to_owned(),
        path: "/v1/projects/*/models/gemini:ask".to_owned(),
    };
    assert_eq!(found, Some(Found::Unknown(endpoint)));
    exchange.request = b"{\"order\": 5}".to_vec();
    assert_eq!(exchange.found(&Settings::default(), &[]), None);
}

// OpenAI Chat Completions.

#[test]
fn a_chats_parameters_are_read() {
    let request = recorded(CHAT, "chat").request;
    assert_eq!(request.model.as_deref(), Some("gpt-4o"));
    assert_eq!((request.max_tokens, request.seed, request.choice_count), (Some(300), Some(7), Some(2)));
    assert_eq!((request.temperature, request.top_p), (Some(0.5), Some(1.0)));
    assert_eq!((request.frequency_penalty, request.presence_penalty), (Some(0.25), Some(-1.0)));
    assert_eq!(request.stop_sequences, ["END"]);
    assert_eq!(request.output_type, Some("json"));
    assert_eq!(request.service_tier.as_deref(), Some("flex"));
    assert_eq!(request.reasoning_level.as_deref(), Some("low"));
    assert!(!request.stream);
}

#[test]
fn a_chats_history_keeps_every_kind_of_part() {
    let call = recorded(CHAT, "chat");
    assert_eq!(
        content(&call, "gen_ai.input.messages"),
        json!([
            {"role": "developer", "parts": [{"type": "text", "content": "CANARY be brief"}]},
            {"role": "user", "name": "ada", "parts": [
                {"type": "text", "content": "CANARY what is this? é 😀"},
                {"type": "uri", "modality": "image", "uri": "https://img.example/CANARY.png"},
                {"type": "blob", "modality": "image", "mime_type": "image/png", "content": "Q0FOQVJZ"},
                {"type": "blob", "modality": "audio", "mime_type": "audio/wav", "content": "Q0FOQVJZ"},
                {"type": "file", "modality": "document", "file_id": "file-CANARY"}]},
            {"role": "assistant", "parts": [
                {"type": "reasoning", "content": "CANARY look at it"},
                {"type": "tool_call", "id": "call_1", "name": "get_weather", "arguments": {"place": "CANARY"}},
                {"type": "tool_call", "id": "call_2", "name": "shell", "arguments": "CANARY ls"}]},
            {"role": "tool", "parts": [{"type": "tool_call_response", "id": "call_1", "response": "CANARY 12 degrees"}]},
            {"role": "tool", "parts": [{"type": "tool_call_response", "id": "call_2", "response": "CANARY a b"}]},
            {"role": "user", "parts": [{"type": "text", "content": "CANARY and now?"}]},
        ])
    );
    assert_eq!(content(&call, "gen_ai.tool.definitions")[0]["name"], "get_weather");
}

#[test]
fn each_choice_of_a_chat_is_a_message_with_its_reason() {
    let call = recorded(CHAT, "chat");
    assert_eq!(
        content(&call, "gen_ai.output.messages"),
        json!([
            {"role": "assistant", "parts": [{"type": "text", "content": "CANARY {}"}], "finish_reason": "stop"},
            {"role": "assistant", "finish_reason": "tool_call", "parts": [
                {"type": "tool_call", "id": "call_3", "name": "get_weather", "arguments": {"place": "CANARY"}}]},
        ])
    );
    let span = semconv::span(&call, &Options::default());
    assert_eq!(attribute(&span, "gen_ai.response.finish_reasons"), json!(["stop", "tool_calls"]));
    assert_eq!(attribute(&span, "gen_ai.request.choice.count"), json!(2));
    let usage = Usage {
        input: Some(100),
        output: Some(40),
        cache_read: Some(64),
        cache_write: None,
        reasoning: Some(16),
    };
    assert_eq!(call.response.usage, usage);
}

#[test]
fn a_streamed_chat_puts_its_tool_calls_together() {
    let call = recorded(CHAT, "chat-stream");
    let arguments = |place: &str| Some(json!({ "place": place }));
    assert_eq!(
        output_parts(&call),
        [
            Part::Text("CANARY let me see ü".to_owned()),
            Part::ToolCall {
                id: Some("call_1".to_owned()),
                name: "get_weather".to_owned(),
                arguments: arguments("CANARY Paris"),
            },
            Part::ToolCall {
                id: Some("call_2".to_owned()),
                name: "get_weather".to_owned(),
                arguments: arguments("CANARY Rome"),
            },
        ]
    );
    assert_eq!(call.outcome, Outcome::Complete);
    assert_eq!(call.response.usage.input, Some(20));
    assert_eq!(call.response.system_fingerprint.as_deref(), Some("fp_2"));
    assert!(call.request.stream && call.timing.first_chunk.is_some());
}

#[test]
fn reasoning_of_a_stream_comes_before_its_text() {
    let call = recorded(CHAT, "chat-reasoning-stream");
    let parts = [Part::Reasoning("CANARY think hard".to_owned()), Part::Text("CANARY 323.".to_owned())];
    assert_eq!(output_parts(&call), parts);
    assert_eq!(call.response.usage.cache_read, Some(4));
    assert_eq!(call.response.usage.reasoning, Some(15));
}

#[test]
fn tool_calls_without_an_index_or_with_index_zero_for_all_are_told_apart_by_id() {
    for index in [Json::Null, json!(0)] {
        let piece = |id: &str, text: &str| {
            delta(
                &json!({"tool_calls": [{"index": index, "id": id, "function": {"name": "f", "arguments": text}}]}),
            )
        };
        let more = delta(&json!({"tool_calls": [{"index": index, "function": {"arguments": "1}"}}]}));
        let text = events(&[piece("a", "{}"), piece("b", "{\"x\":"), more]);
        let call = stream(&text).call(true, usize::MAX).unwrap();
        let parts = output_parts(&call);
        assert_eq!(parts.len(), 2, "{index}: {parts:?}");
        assert!(
            matches!(&parts[1], Part::ToolCall { arguments: Some(arguments), .. } if *arguments == json!({"x": 1}))
        );
    }
}

#[test]
fn a_legacy_function_call_and_a_refusal_are_read() {
    let text = events(&[
        delta(&json!({"refusal": "I "})),
        delta(&json!({"refusal": "won't"})),
        delta(&json!({"function_call": {"name": "f", "arguments": "{\"a\""}})),
        delta(&json!({"function_call": {"arguments": ":1}"}})),
    ]);
    let call = stream(&text).call(true, 11).unwrap();
    let function = Part::ToolCall { id: None, name: "f".to_owned(), arguments: Some(json!({"a": 1})) };
    assert_eq!(output_parts(&call), [Part::Text("I won't".to_owned()), function]);
}

#[test]
fn reasoning_that_a_provider_counts_apart_is_output() {
    let usage = json!({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 115,
                       "completion_tokens_details": {"reasoning_tokens": 100}});
    let call = chat(&ask(), &json!({"choices": [], "usage": usage})).call(false, 9).unwrap();
    assert_eq!(call.response.usage.output, Some(105));
}

#[test]
fn arguments_that_are_no_json_stay_text() {
    let message = json!({"role": "assistant", "tool_calls": [{"id": "x", "function": {"name": "f", "arguments": "{oops"}}]});
    let body = json!({"choices": [{"message": message, "finish_reason": "tool_calls"}]});
    let call = chat(&ask(), &body).call(true, 9).unwrap();
    assert!(
        matches!(&output_parts(&call)[0], Part::ToolCall { arguments: Some(Json::String(text)), .. } if text == "{oops")
    );
}

// OpenAI Responses.

#[test]
fn a_response_and_its_input_items_are_read() {
    let call = recorded(RESPONSES, "responses");
    assert_eq!(call.request.conversation_id.as_deref(), Some("conv_1"));
    assert_eq!(call.request.output_type, Some("json"));
    assert_eq!(call.request.reasoning_level.as_deref(), Some("high"));
    assert_eq!(
        content(&call, "gen_ai.input.messages"),
        json!([
            {"role": "user", "parts": [{"type": "text", "content": "CANARY hi"}]},
            {"role": "user", "parts": [
                {"type": "text", "content": "CANARY see"},
                {"type": "uri", "modality": "image", "uri": "https://img.example/CANARY.png"},
                {"type": "file", "modality": "document", "file_id": "file-CANARY"}]},
            {"role": "assistant", "parts": [{"type": "reasoning", "content": "CANARY thought"}]},
            {"role": "assistant", "parts": [
                {"type": "tool_call", "id": "call_0", "name": "get_weather", "arguments": {"place": "CANARY"}}]},
            {"role": "tool", "parts": [{"type": "tool_call_response", "id": "call_0", "response": "CANARY sunny"}]},
            {"role": "assistant", "parts": [{"type": "item_reference", "id": "msg_CANARY"}]},
        ])
    );
    let output = content(&call, "gen_ai.output.messages");
    assert_eq!(output[0]["finish_reason"], "tool_call");
    let kinds: Vec<_> =
        output[0]["parts"].as_array().unwrap().iter().map(|part| part["type"].clone()).collect();
    assert_eq!(kinds, ["reasoning", "server_tool_call", "text", "tool_call"]);
    assert_eq!(
        content(&call, "gen_ai.system_instructions"),
        json!([{"type": "text", "content": "CANARY be kind"}])
    );
    let span = semconv::span(&call, &Options::default());
    // `auto` is what everyone gets: not reported.
    assert_eq!(attribute(&span, "openai.request.service_tier"), Json::Null);
    assert_eq!(attribute(&span, "openai.api.type"), "responses");
}

#[test]
fn a_streamed_response_ends_with_its_own_last_event() {
    let call = recorded(RESPONSES, "responses-stream");
    assert_eq!(call.outcome, Outcome::Complete);
    assert_eq!(call.response.finish_reasons, [Some("tool_calls".to_owned())]);
    assert_eq!(output_parts(&call).len(), 3);
    assert_eq!(call.response.usage.reasoning, Some(3));
}

#[test]
fn a_response_that_is_cut_has_what_its_deltas_gave() {
    let mut exchange = Exchange::recorded(RESPONSES, "responses-stream");
    let text = String::from_utf8(exchange.response).unwrap();
    let cut = text.find("\"type\":\"response.output_item.done\",\"output_index\":2").unwrap();
    exchange.response = text.as_bytes()[..cut].to_vec();
    exchange.end = End::Cut;
    let call = exchange.call(true, 13).unwrap();
    assert_eq!(call.outcome, Outcome::Cut);
    assert_eq!(
        output_parts(&call),
        [
            Part::Reasoning("CANARY why".to_owned()),
            Part::Text("CANARY I look".to_owned()),
            Part::ToolCall {
                id: Some("call_1".to_owned()),
                name: "get_weather".to_owned(),
                arguments: Some(json!({"place": "CANARY"})),
            },
        ]
    );
}

#[test]
fn an_incomplete_response_says_why() {
    let body = json!({"id": "r", "object": "response", "status": "incomplete", "output": [],
                      "incomplete_details": {"reason": "max_output_tokens"}});
    let mut exchange = chat(&json!({"model": "m", "input": "x"}), &body);
    exchange.path = RESPONSES.to_owned();
    assert_eq!(exchange.call(false, 9).unwrap().response.finish_reasons, [Some("length".to_owned())]);
}

#[test]
fn a_failed_response_is_an_error_although_the_status_is_200() {
    let failed = json!({"type": "response.failed", "response": {"id": "r", "object": "response", "status": "failed",
        "error": {"code": "server_error", "message": "CANARY broke"}, "output": []}});
    let mut exchange = stream(&events(&[failed]));
    exchange.path = RESPONSES.to_owned();
    exchange.request = json!({"model": "m", "input": "x", "stream": true}).to_string().into_bytes();
    let call = exchange.call(false, 9).unwrap();
    let span = semconv::span(&call, &Options::default());
    assert_eq!(attribute(&span, "error.type"), "server_error");
    assert_eq!(span.status, Status::Error("server_error".to_owned()));
}

// Anthropic Messages.

#[test]
fn a_message_and_its_blocks_are_read() {
    let call = recorded(MESSAGES, "anthropic");
    assert_eq!(call.provider, "anthropic");
    assert_eq!(call.request.top_k, Some(40.0));
    assert_eq!(
        content(&call, "gen_ai.input.messages"),
        json!([
            {"role": "user", "parts": [
                {"type": "text", "content": "CANARY see"},
                {"type": "blob", "modality": "image", "mime_type": "image/png", "content": "Q0FOQVJZ"},
                {"type": "uri", "modality": "image", "uri": "https://img.example/CANARY.png"},
                {"type": "file", "modality": "document", "file_id": "file_CANARY"},
                {"type": "text", "content": "CANARY doc"}]},
            {"role": "assistant", "parts": [
                {"type": "reasoning", "content": "CANARY hm"},
                {"type": "reasoning", "content": ""},
                {"type": "tool_call", "id": "toolu_1", "name": "get_weather", "arguments": {"place": "CANARY"}}]},
            {"role": "user", "parts": [{"type": "tool_call_response", "id": "toolu_1", "response": "CANARY rain"}]},
        ])
    );
    let output = content(&call, "gen_ai.output.messages");
    let kinds: Vec<_> =
        output[0]["parts"].as_array().unwrap().iter().map(|part| part["type"].clone()).collect();
    assert_eq!(kinds, ["reasoning", "text", "server_tool_call", "server_tool_call_response"]);
    let tools = content(&call, "gen_ai.tool.definitions");
    assert_eq!((&tools[0]["type"], &tools[1]["name"]), (&json!("function"), &json!("web_search")));
}

#[test]
fn input_tokens_include_what_a_cache_held_or_takes() {
    let call = recorded(MESSAGES, "anthropic");
    let span = semconv::span(&call, &Options::default());
    assert_eq!(attribute(&span, "gen_ai.usage.input_tokens"), json!(100));
    assert_eq!(attribute(&span, "gen_ai.usage.cache_read.input_tokens"), json!(70));
    assert_eq!(attribute(&span, "gen_ai.usage.cache_creation.input_tokens"), json!(20));
    let latest = semconv::span(&call, &Options { vintage: Vintage::Latest, ..Options::default() });
    assert_eq!(attribute(&latest, "gen_ai.usage.cache_write.input_tokens"), json!(20));
    assert_eq!(attribute(&latest, "gen_ai.request.top_k"), json!(40));
}

#[test]
fn a_streamed_message_is_put_together() {
    let call = recorded(MESSAGES, "anthropic-stream");
    let server = json!({"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "CANARY"}});
    assert_eq!(
        output_parts(&call),
        [
            Part::Reasoning("CANARY think".to_owned()),
            Part::Text("CANARY I'll look ü".to_owned()),
            Part::ServerToolCall {
                id: Some("srvtoolu_1".to_owned()),
                name: "web_search".to_owned(),
                call: server
            },
            Part::ToolCall {
                id: Some("toolu_2".to_owned()),
                name: "get_weather".to_owned(),
                arguments: Some(json!({"place": "CANARY"})),
            },
        ]
    );
    assert_eq!(call.response.finish_reasons, [Some("tool_use".to_owned())]);
    let span = semconv::span(&call, &Options::default());
    assert_eq!(attribute(&span, "gen_ai.response.finish_reasons"), json!(["tool_call"]));
    // The latest of each count, null being none: 12 + 5 + 0.
    assert_eq!((call.response.usage.input, call.response.usage.output), (Some(17), Some(44)));
}

#[test]
fn an_error_in_the_middle_of_a_stream_fails_the_call() {
    let mut exchange = Exchange::recorded(MESSAGES, "anthropic-stream");
    let text = String::from_utf8(exchange.response).unwrap();
    let cut = text.find("event: message_delta").unwrap();
    let error = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n";
    exchange.response = format!("{}{error}", &text[..cut]).into_bytes();
    let call = exchange.call(true, 50).unwrap();
    let span = semconv::span(&call, &with_content());
    assert_eq!(attribute(&span, "error.type"), "overloaded_error");
    assert_eq!(span.status, Status::Error("overloaded_error: Overloaded".to_owned()));
    // What came before stays.
    assert_eq!(output_parts(&call).len(), 4);
}

// Embeddings and completions.

#[test]
fn embeddings_are_counted_and_never_kept() {
    let call = recorded("/v1/embeddings", "embeddings");
    let span = semconv::span(&call, &with_content());
    assert_eq!(span.name, "embeddings text-embedding-3-small");
    assert_eq!(attribute(&span, "gen_ai.embeddings.dimension.count"), json!(4));
    assert_eq!(attribute(&span, "gen_ai.request.encoding_formats"), json!(["float"]));
    assert_eq!(attribute(&span, "gen_ai.usage.input_tokens"), json!(6));
    assert!(!format!("{span:?}").contains("CANARY"));
}

#[test]
fn legacy_completions_are_read() {
    let call = recorded("/v1/completions", "completions");
    assert_eq!(call.operation, Operation::TextCompletion);
    assert_eq!(content(&call, "gen_ai.input.messages").as_array().unwrap().len(), 2);
    assert_eq!(content(&call, "gen_ai.output.messages")[1]["parts"][0]["content"], "CANARY more");
}

// Errors and ends.

#[test]
fn a_providers_error_has_its_code_else_its_type_else_the_status() {
    for (status, body, error) in [
        (404, json!({"error": {"message": "CANARY", "type": "invalid_request_error", "code": "model_not_found"}}).to_string(), "model_not_found"),
        (429, json!({"error": {"message": "CANARY", "type": "insufficient_quota", "code": null}}).to_string(), "insufficient_quota"),
        (400, json!({"object": "error", "message": "CANARY", "type": "BadRequestError", "code": 400}).to_string(), "BadRequestError"),
        (500, json!({"detail": "CANARY"}).to_string(), "500"),
        (502, "<html>CANARY Bad Gateway</html>".to_owned(), "502"),
        (503, String::new(), "503"),
        (400, json!({"error": {"type": "a sentence about CANARY"}}).to_string(), "400"),
        (400, json!({"error": "CANARY"}).to_string(), "400"),
        (200, json!({"error": {"message": "CANARY"}}).to_string(), "_OTHER"),
    ] {
        let exchange = Exchange { status, response: body.clone().into_bytes(), ..chat(&ask(), &json!({})) };
        let call = exchange.call(false, 9).unwrap();
        let span = semconv::span(&call, &Options::default());
        assert_eq!(attribute(&span, "error.type"), error, "{body}");
        assert_eq!(attribute(&span, "http.response.status_code"), json!(status));
        assert_eq!(span.events[0].name, "gen_ai.client.operation.exception");
        assert!(!format!("{span:?}").contains("CANARY"), "{span:?}");
        let status_text = match status {
            200 => error.to_owned(),
            status if status.to_string() == error => format!("HTTP {status}"),
            status => format!("HTTP {status} {error}"),
        };
        assert_eq!(span.status, Status::Error(status_text));
    }
}

#[test]
fn an_errors_message_is_content_and_loses_its_credentials() {
    let key = format!("sk-proj-{}", "aB3d".repeat(10));
    let body = json!({"error": {"message": format!("Incorrect API key provided: {key}"), "code": "invalid_api_key"}});
    let exchange = Exchange { status: 401, ..chat(&ask(), &body) };
    let span = semconv::span(&exchange.call(true, 9).unwrap(), &with_content());
    let text = "HTTP 401 invalid_api_key: Incorrect API key provided: [REDACTED:openai-key]";
    assert_eq!(span.status, Status::Error(text.to_owned()));
    assert!(!format!("{span:?}").contains(&key));
}

#[test]
fn a_stream_asked_for_may_be_answered_by_json() {
    let body = json!({"error": {"code": "context_length_exceeded"}});
    let exchange =
        Exchange { status: 400, ..chat(&json!({"model": "m", "messages": [], "stream": true}), &body) };
    let call = exchange.call(false, 9).unwrap();
    let span = semconv::span(&call, &Options::default());
    assert_eq!(attribute(&span, "gen_ai.request.stream"), json!(true));
    assert_eq!(attribute(&span, "error.type"), "context_length_exceeded");
}

#[test]
fn a_stream_is_known_by_its_first_byte_where_no_type_is_given() {
    let mut exchange = Exchange::recorded(CHAT, "chat-stream");
    exchange.response_headers.clear();
    assert_eq!(exchange.call(true, 3).unwrap().response.finish_reasons, [Some("tool_calls".to_owned())]);
}

#[test]
fn how_a_stream_ended_short_is_told() {
    let text = events(&[delta(&json!({"content": "CANARY"}))]);
    for (end, outcome, error, word) in [
        (End::Cut, Outcome::Cut, json!("response_cut"), "cut"),
        (End::Complete, Outcome::Cut, json!("response_cut"), "cut"),
        (End::Cancelled, Outcome::Cancelled, Json::Null, "cancelled"),
        (End::Unknown, Outcome::Incomplete, Json::Null, "unknown"),
    ] {
        let call = Exchange { end, ..stream(&text) }.call(true, 9).unwrap();
        assert_eq!(call.outcome, outcome);
        let span = semconv::span(&call, &with_content());
        assert_eq!(attribute(&span, "error.type"), error);
        assert_eq!(attribute(&span, "agentsight.response.incomplete"), word);
        assert_eq!(attribute(&span, "gen_ai.response.finish_reasons"), Json::Null);
        assert_eq!(content(&call, "gen_ai.output.messages")[0]["finish_reason"], "error");
        let latest = semconv::span(&call, &Options { vintage: Vintage::Latest, ..Options::default() });
        assert_eq!(attribute(&latest, "gen_ai.response.finish_reasons"), json!(["error"]));
    }
}

#[test]
fn a_stream_without_a_terminator_is_complete_when_its_choices_are() {
    let text =
        events(&[json!({"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]})]);
    assert_eq!(stream(&text).call(false, 9).unwrap().outcome, Outcome::Complete);
}

#[test]
fn a_terminator_makes_a_stream_whole_whatever_its_framing_does() {
    let mut exchange = Exchange::recorded(CHAT, "chat-stream");
    exchange.end = End::Cut;
    assert_eq!(exchange.call(false, usize::MAX).unwrap().outcome, Outcome::Complete);
}

#[test]
fn a_request_without_a_response_is_a_call() {
    for (end, outcome) in [(End::Cut, Outcome::Cut), (End::Cancelled, Outcome::Cancelled)] {
        let call = Exchange { status: 0, end, ..chat(&ask(), &json!({})) }.call(false, 9).unwrap();
        assert_eq!((call.outcome, call.status), (outcome, None));
    }
}

#[test]
fn a_request_that_was_not_seen_whole_is_known_by_its_answer() {
    let mut exchange = Exchange::recorded(CHAT, "chat-stream");
    exchange.request = b"{\"mess".to_vec();
    exchange.lost = Some(Direction::Sent);
    let call = exchange.call(false, 100).unwrap();
    assert!(call.truncated);
    assert_eq!(call.response.model.as_deref(), Some("gpt-4o-2024-08-06"));
    let span = semconv::span(&call, &Options::default());
    assert_eq!(attribute(&span, "agentsight.capture.truncated"), json!(true));
    assert_eq!(span.name, "chat");
}

#[test]
fn a_retry_is_counted() {
    let mut exchange = chat(&ask(), &json!({"choices": []}));
    for (count, expected) in [("0", Json::Null), ("2", json!(2))] {
        exchange.request_headers = vec![("x-stainless-retry-count".to_owned(), count.to_owned())];
        let span = semconv::span(&exchange.call(false, 9).unwrap(), &Options::default());
        assert_eq!(attribute(&span, "http.request.resend_count"), expected);
    }
}

#[test]
fn the_callers_span_is_the_parent() {
    let mut exchange = chat(&ask(), &json!({"choices": []}));
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    exchange.request_headers = vec![("traceparent".to_owned(), parent.to_owned())];
    let span = semconv::span(&exchange.call(false, 9).unwrap(), &Options::default());
    assert_eq!(span.parent.unwrap().span_id.0, [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]);
}

// Times and metrics.

#[test]
fn the_first_chunk_and_the_times_between_chunks_are_measured() {
    let text = events(&[
        delta(&json!({"content": "a"})),
        delta(&json!({"content": "b"})),
        delta(&json!({"content": "c"})),
    ]);
    // Each event is one piece and comes 10 ms after the one before; so does the head after the request.
    let piece = text.len() / 3;
    let call = stream(&format!("{text}data: [DONE]\n\n")).call(false, piece).unwrap();
    let span = semconv::span(&call, &Options::default());
    assert_eq!(attribute(&span, "gen_ai.response.time_to_first_chunk"), json!(0.02));
    assert_eq!(call.timing.between_chunks.counts.iter().sum::<u64>(), 2);
    assert_eq!((call.timing.between_chunks.min, call.timing.between_chunks.max), (0.01, 0.01));
}

#[test]
fn the_metrics_of_both_vintages_have_their_names_and_amounts() {
    let call = recorded(CHAT, "chat-stream");
    let names = |vintage| -> Vec<_> {
        let options = Options { vintage, ..Options::default() };
        semconv::measurements(&call, &options)
            .into_iter()
            .map(|measurement| measurement.metric.name)
            .collect()
    };
    assert_eq!(
        names(Vintage::V1_41),
        [
            "gen_ai.client.operation.duration",
            "gen_ai.client.token.usage",
            "gen_ai.client.token.usage",
            "gen_ai.client.operation.time_to_first_chunk",
            "gen_ai.client.operation.time_per_output_chunk",
        ]
    );
    assert_eq!(
        names(Vintage::Latest),
        [
            "gen_ai.client.inference.duration",
            "gen_ai.client.inference.usage.input_tokens",
            "gen_ai.client.inference.usage.output_tokens",
            "gen_ai.client.inference.operation.input_tokens",
            "gen_ai.client.inference.operation.output_tokens",
            "gen_ai.client.inference.time_to_first_chunk",
            "gen_ai.client.inference.time_per_output_chunk",
        ]
    );
    let all = semconv::measurements(&call, &Options::default());
    assert_eq!(all[1].amount, Amount::Int(20));
    assert!(all[1].attributes.contains(&("gen_ai.token.type".into(), Value::Str("input".into()))));
    assert!(matches!(&all[4].amount, Amount::Buckets { counts, .. } if counts.iter().sum::<u64>() == 9));
}

// Content.

#[test]
fn without_content_nothing_of_it_is_anywhere() {
    for vintage in [Vintage::V1_41, Vintage::Latest] {
        for (path, name) in RECORDINGS {
            for piece in [1, 64, usize::MAX] {
                let call = Exchange::recorded(path, name).call(false, piece).unwrap();
                // The call itself does not hold it, so that no later mistake can let it out.
                let options = Options { vintage, content: true, ..Options::default() };
                let all = format!(
                    "{call:?} {:?} {:?}",
                    semconv::span(&call, &options),
                    semconv::measurements(&call, &options)
                );
                assert!(!all.contains("CANARY") && !all.contains("Q0FOQVJZ"), "{name}: {all}");
            }
        }
    }
}

#[test]
fn content_that_a_call_holds_stays_where_the_span_is_not_to_have_it() {
    for (path, name) in RECORDINGS {
        let call = recorded(path, name);
        let all = format!(
            "{:?} {:?}",
            semconv::span(&call, &Options::default()),
            semconv::measurements(&call, &with_content())
        );
        assert!(!all.contains("CANARY") && !all.contains("Q0FOQVJZ"), "{name}: {all}");
    }
}

#[test]
fn credentials_in_messages_and_tool_arguments_are_taken_out() {
    let key = format!("ghp_{}", "aB3d".repeat(9));
    let message = json!({"role": "assistant", "content": format!("use {key}"), "tool_calls": [
        {"id": "x", "function": {"name": "f", "arguments": json!({"password": "hunter2", "cmd": format!("T={key}")}).to_string()}}]});
    let request = json!({"model": "m", "stop": [key], "messages": [{"role": "tool", "tool_call_id": "y", "content": key}]});
    let call = chat(&request, &json!({"choices": [{"message": message}]})).call(true, 9).unwrap();
    let text = format!("{:?}", semconv::span(&call, &with_content()));
    assert!(!text.contains(&key) && !text.contains("hunter2"), "{text}");
}

#[test]
fn the_users_own_patterns_are_taken_out_too() {
    let redactor = Redactor::new("redact", &["CANARY".to_owned()]).unwrap();
    let options = Options { content: true, redactor: redactor.into(), ..Options::default() };
    let span = semconv::span(&recorded(CHAT, "chat"), &options);
    assert!(!format!("{span:?}").contains("CANARY"));
}

#[test]
fn content_beyond_a_limit_is_cut_and_marked() {
    let long = "word ".repeat(10_000);
    let body =
        json!({"choices": [{"message": {"role": "assistant", "content": long}, "finish_reason": "stop"}]});
    let exchange = chat(&ask(), &body);
    let settings = Settings { content: true, max_response_content: 5_000, ..Settings::default() };
    let Some(Found::Call(call)) = exchange.found(&settings, &[100, 3000]) else { panic!() };
    let span = semconv::span(&call, &with_content());
    assert_eq!(attribute(&span, "agentsight.content.truncated"), json!(true));
    assert!(content(&call, "gen_ai.output.messages").to_string().len() < 6_000);

    let whole = exchange.call(true, 9).unwrap();
    let options = Options { max_content: 2_000, ..with_content() };
    let span = semconv::span(&whole, &options);
    assert_eq!(attribute(&span, "agentsight.content.truncated"), json!(true));
    assert!(attribute(&span, "gen_ai.output.messages").as_str().unwrap().len() <= 2_000);
    assert_eq!(
        attribute(&semconv::span(&whole, &with_content()), "agentsight.content.truncated"),
        Json::Null
    );
}

#[test]
fn a_limit_in_the_middle_of_a_credential_leaves_nothing_of_it() {
    let key = format!("ghp_{}", "aB3d".repeat(9));
    let pieces = [format!("here: {}", &key[..20]), key[20..].to_owned()];
    let text = events(&pieces.map(|piece| delta(&json!({"content": piece}))));
    for room in 10..30 {
        let settings = Settings { content: true, max_response_content: room, ..Settings::default() };
        let Some(Found::Call(call)) = stream(&text).found(&settings, &[]) else { panic!() };
        assert_eq!(output_parts(&call), [Part::Text("here:".to_owned())], "{room}");
    }
}

#[test]
fn an_answer_of_four_mebibytes_is_kept_whole() {
    let long = "0123456789abcdef".repeat(4 << 16);
    let body =
        json!({"choices": [{"message": {"role": "assistant", "content": long}, "finish_reason": "stop"}]});
    let prompt = "p".repeat(1 << 20);
    let request = json!({"messages": [{"role": "user", "content": prompt}], "model": "m"});
    let call = chat(&request, &body).call(true, 1 << 14).unwrap();
    assert_eq!(content(&call, "gen_ai.output.messages")[0]["parts"][0]["content"], long);
    assert_eq!(content(&call, "gen_ai.input.messages")[0]["parts"][0]["content"], prompt);
    assert_eq!(call.request.model.as_deref(), Some("m"));
}

proptest! {
    #[test]
    fn any_split_of_the_same_bytes_gives_the_same_call(
        recording in 0..RECORDINGS.len(),
        cuts in prop::collection::vec(0_usize..6000, 0..40),
        content in any::<bool>(),
    ) {
        let (path, name) = RECORDINGS[recording];
        let mut cuts = cuts;
        cuts.sort_unstable();
        let exchange = Exchange::recorded(path, name);
        let settings = Settings { content, ..Settings::default() };
        let read = |at: &[usize]| match exchange.found(&settings, at) {
            // When pieces arrive is what differs.
            Some(Found::Call(call)) => Some(Call { timing: Default::default(), ..*call }),
            _ => None,
        };
        let whole = read(&[]);
        prop_assert!(whole.is_some());
        prop_assert_eq!(&read(&cuts), &whole);
        let piece = cuts.first().map_or(usize::MAX, |cut| cut + 1);
        let over_http1 = exchange.call_over_http1(content, piece);
        prop_assert_eq!(over_http1.map(|call| Call { timing: Default::default(), ..call }), whole);
    }

    #[test]
    fn a_response_cut_anywhere_is_a_call_that_holds_no_more(recording in 0..RECORDINGS.len(), at in 0_usize..6000) {
        let (path, name) = RECORDINGS[recording];
        let mut exchange = Exchange::recorded(path, name);
        exchange.response.truncate(at);
        exchange.end = End::Cut;
        let call = exchange.call(true, 100).expect("a call");
        semconv::span(&call, &with_content());
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(
        request in prop::collection::vec(any::<u8>(), 0..200),
        response in prop::collection::vec(any::<u8>(), 0..200),
        event_stream in any::<bool>(),
    ) {
        for path in [CHAT, RESPONSES, MESSAGES, "/v1/embeddings", "/v1/completions"] {
            let kind = if event_stream { "text/event-stream" } else { "application/json" };
            let exchange = Exchange {
                path: path.to_owned(),
                request: request.clone(),
                response: response.clone(),
                response_headers: vec![("content-type".to_owned(), kind.to_owned())],
                ..Exchange::default()
            };
            exchange.call(true, 7);
        }
    }
}
