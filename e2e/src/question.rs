//! What a request asks, whichever API it came by.

use serde_json::Value;

/// The APIs that the server speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Api {
    /// OpenAI: `POST …/chat/completions`.
    Chat,
    /// OpenAI: `POST …/responses`.
    Responses,
    /// OpenAI: `POST …/completions`.
    Completions,
    /// OpenAI: `POST …/embeddings`.
    Embeddings,
    /// Anthropic: `POST …/messages`.
    Messages,
    /// Anthropic: `POST …/messages/count_tokens`.
    CountTokens,
    /// Google: `POST …/models/MODEL:generateContent` and `…:streamGenerateContent`.
    GenerateContent,
    /// Google: `POST …/models/MODEL:countTokens`.
    GoogleCountTokens,
    /// All: `GET …/models`.
    Models,
}

impl Api {
    /// The API behind a method and a path with any prefix.
    pub fn of(method: &str, path: &str) -> Option<Self> {
        match method {
            "GET" | "HEAD" if path.ends_with("/models") || path.contains("/models/") => Some(Self::Models),
            "POST" if path.ends_with("/chat/completions") => Some(Self::Chat),
            "POST" if path.ends_with("/responses") => Some(Self::Responses),
            "POST" if path.ends_with("/completions") => Some(Self::Completions),
            "POST" if path.ends_with("/embeddings") => Some(Self::Embeddings),
            "POST" if path.ends_with("/messages") => Some(Self::Messages),
            "POST" if path.ends_with("/messages/count_tokens") => Some(Self::CountTokens),
            "POST" if path.ends_with(":generateContent") || path.ends_with(STREAM) => {
                Some(Self::GenerateContent)
            }
            "POST" if path.ends_with(":countTokens") => Some(Self::GoogleCountTokens),
            _ => None,
        }
    }

    /// The name in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat.completions",
            Self::Responses => "responses",
            Self::Completions => "completions",
            Self::Embeddings => "embeddings",
            Self::Messages => "messages",
            Self::CountTokens => "messages.count_tokens",
            Self::GenerateContent => "generateContent",
            Self::GoogleCountTokens => "countTokens",
            Self::Models => "models",
        }
    }

    /// Whether the path names the model and the method, and errors have Google's shape.
    pub fn is_google(self) -> bool {
        matches!(self, Self::GenerateContent | Self::GoogleCountTokens)
    }

    /// The model that a request names.
    pub fn model<'a>(self, path: &'a str, body: &'a Value) -> &'a str {
        if self.is_google() {
            let name = path.rsplit('/').next().unwrap_or_default();
            return name.split(':').next().unwrap_or_default();
        }
        body["model"].as_str().unwrap_or_default()
    }

    /// Whether errors have Anthropic's shape.
    pub fn is_anthropic(self) -> bool {
        matches!(self, Self::Messages | Self::CountTokens)
    }
}

/// By which Google's API is asked for events.
const STREAM: &str = ":streamGenerateContent";

/// A request's meaning, as far as the answer depends on it.
#[derive(Clone, Debug)]
pub struct Question {
    /// Where it was asked.
    pub api: Api,
    /// The model that it names.
    pub model: String,
    /// Server-sent events wanted.
    pub stream: bool,
    /// The text of the last user message.
    pub last_user: String,
    /// Results of tool calls since that message.
    pub tool_results: Vec<String>,
    /// The tools that may be called.
    pub tools: Vec<Tool>,
    /// Tools must be called, all or the one named.
    pub forced: bool,
    /// More than one call at once is fine.
    pub parallel: bool,
    /// How many choices.
    pub choices: usize,
    /// The answer's limit.
    pub max_tokens: Option<u64>,
    /// The texts that end an answer.
    pub stop: Vec<String>,
    /// The JSON schema that the answer must fit.
    pub schema: Option<Value>,
    /// Reasoning was asked for.
    pub reasons: bool,
    /// All text of the request, in tokens: see [`tokens`].
    pub input_tokens: u64,
}

/// A tool that the model may call.
#[derive(Clone, Debug)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// The JSON schema of its arguments.
    pub parameters: Value,
}

/// The server's measure of text: a token is four bytes of UTF-8, the last one begun.
pub fn tokens(bytes: usize) -> u64 {
    bytes.div_ceil(4) as u64
}

/// What an image counts, as OpenAI counts one of low detail.
const IMAGE_TOKENS: u64 = 85;

impl Question {
    /// Reads a request's body, sent to `path`.
    pub fn of(api: Api, path: &str, body: &Value) -> Self {
        let mut input = Input::default();
        for field in
            ["system", "systemInstruction", "instructions", "prompt", "messages", "input", "contents"]
        {
            match (&body[field], field) {
                (Value::Array(messages), "messages" | "input" | "contents") => {
                    messages.iter().for_each(|m| input.message(m));
                }
                (Value::String(text), "input") => {
                    input.bytes += text.len();
                    input.last_user.clone_from(text);
                }
                (value, "prompt") => input.last_user = input.text(value),
                (value, _) => {
                    input.text(value);
                }
            }
        }
        let listed = body["tools"].as_array().into_iter().flatten();
        // Google's are in groups.
        let each = listed.flat_map(|tool| match &tool["functionDeclarations"] {
            Value::Array(functions) => functions.as_slice(),
            _ => std::slice::from_ref(tool),
        });
        let tools = each.filter_map(Tool::of).collect();
        let config = &body["generationConfig"];
        let (tools, forced) = choose(tools, &body["tool_choice"]);
        let stop = body.get("stop").or_else(|| body.get("stop_sequences"));
        let stop = match stop.or_else(|| config.get("stopSequences")) {
            Some(Value::String(text)) => vec![text.clone()],
            Some(Value::Array(texts)) => texts.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        let schema = [
            &body["response_format"]["json_schema"]["schema"],
            &body["text"]["format"]["schema"],
            &body["output_config"]["format"]["schema"],
            &body["output_format"]["schema"],
            &config["responseJsonSchema"],
            &config["responseSchema"],
        ];
        Self {
            api,
            model: api.model(path, body).to_owned(),
            stream: body["stream"].as_bool().unwrap_or(false) || path.ends_with(STREAM),
            last_user: input.last_user,
            tool_results: input.tool_results,
            tools,
            forced,
            parallel: body["parallel_tool_calls"].as_bool().unwrap_or(true)
                && !body["tool_choice"]["disable_parallel_tool_use"].as_bool().unwrap_or(false),
            choices: body["n"].as_u64().unwrap_or(1).clamp(1, 16) as usize,
            max_tokens: ["max_completion_tokens", "max_output_tokens", "max_tokens"]
                .iter()
                .find_map(|name| body[name].as_u64())
                .or_else(|| config["maxOutputTokens"].as_u64()),
            stop,
            schema: schema.into_iter().find(|s| s.is_object()).cloned(),
            reasons: body["reasoning_effort"].is_string()
                || body["reasoning"].is_object()
                || config["thinkingConfig"]["includeThoughts"] == true
                || matches!(body["thinking"]["type"].as_str(), Some("enabled" | "adaptive")),
            input_tokens: tokens(input.bytes) + input.images * IMAGE_TOKENS,
        }
    }
}

impl Tool {
    /// Chat nests a function, Responses and Anthropic do not; tools of other kinds are not called.
    fn of(tool: &Value) -> Option<Self> {
        let function = tool.get("function").unwrap_or(tool);
        let parameters = ["parameters", "input_schema", "parametersJsonSchema", "parameters_json_schema"];
        let parameters = parameters.iter().find_map(|name| function.get(name))?;
        Some(Self { name: function["name"].as_str()?.to_owned(), parameters: parameters.clone() })
    }
}

/// Narrows the tools to what `tool_choice` lets the model call.
fn choose(tools: Vec<Tool>, choice: &Value) -> (Vec<Tool>, bool) {
    let kind = choice.as_str().or_else(|| choice["type"].as_str()).unwrap_or("auto");
    let named = choice["function"]["name"].as_str().or_else(|| choice["name"].as_str());
    match (kind, named) {
        ("none", _) => (Vec::new(), false),
        (_, Some(name)) => (tools.into_iter().filter(|t| t.name == name).collect(), true),
        ("required" | "any", None) => (tools, true),
        _ => (tools, false),
    }
}

#[derive(Default)]
struct Input {
    bytes: usize,
    images: u64,
    last_user: String,
    tool_results: Vec<String>,
}

impl Input {
    fn message(&mut self, message: &Value) {
        match (message["type"].as_str(), message["role"].as_str()) {
            (Some("function_call_output"), _) => {
                let result = self.text(&message["output"]);
                self.tool_results.push(result);
            }
            (_, Some("tool")) => {
                let result = self.text(&message["content"]);
                self.tool_results.push(result);
            }
            (_, Some("user")) if message["parts"].is_array() => {
                let answers = message["parts"].as_array().into_iter().flatten();
                let answers: Vec<_> = answers.filter_map(|part| part.get("functionResponse")).collect();
                if answers.is_empty() {
                    self.tool_results.clear();
                    // Gemini CLI says where it is in a part of its own, before what the user says.
                    let parts = message["parts"].as_array().into_iter().flatten();
                    self.last_user = parts.map(|part| self.text(part)).last().unwrap_or_default();
                }
                for answer in answers {
                    let text = answer["response"]["output"].as_str().map(str::to_owned);
                    let text = text.unwrap_or_else(|| answer["response"].to_string());
                    self.bytes += text.len();
                    self.tool_results.push(text);
                }
            }
            (_, Some("user")) => {
                let blocks = message["content"].as_array().map_or(&[][..], Vec::as_slice);
                let results: Vec<_> = blocks.iter().filter(|b| b["type"] == "tool_result").collect();
                if results.is_empty() {
                    self.tool_results.clear();
                    self.last_user = self.text(&message["content"]);
                }
                for result in results {
                    let result = self.text(&result["content"]);
                    self.tool_results.push(result);
                }
            }
            // Strings and arrays of tokens in `input` of embeddings.
            (None, None) => self.last_user = self.text(message),
            (_, Some("model")) => {
                self.text(message);
            }
            _ => {
                self.text(&message["content"]);
            }
        }
    }

    /// The text of a string or of content parts, counted.
    fn text(&mut self, content: &Value) -> String {
        match content {
            Value::String(text) => {
                self.bytes += text.len();
                text.clone()
            }
            Value::Array(parts) => {
                let texts: Vec<_> = parts.iter().map(|part| self.text(part)).collect();
                texts.concat()
            }
            Value::Object(part) => {
                if part.get("type").and_then(Value::as_str).is_some_and(|t| t.contains("image")) {
                    self.images += 1;
                }
                let text = part.get("text").or_else(|| part.get("parts"));
                text.map(|text| self.text(text)).unwrap_or_default()
            }
            // One token of an embedding's input.
            Value::Number(_) => {
                self.bytes += 4;
                String::new()
            }
            _ => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Api, Question};
    use serde_json::json;

    #[test]
    fn tool_results_count_only_since_the_last_user_message() {
        let question = Question::of(
            Api::Chat,
            "/v1/chat/completions",
            &json!({"messages": [
                {"role": "user", "content": "one"},
                {"role": "tool", "tool_call_id": "a", "content": "old"},
                {"role": "user", "content": "two"},
                {"role": "tool", "tool_call_id": "b", "content": "new"},
            ]}),
        );
        assert_eq!(question.last_user, "two");
        assert_eq!(question.tool_results, ["new"]);
        assert_eq!(question.input_tokens, 3, "12 bytes of text");
    }

    #[test]
    fn google_names_the_model_in_the_path_and_groups_its_functions() {
        let path = "/v1beta/models/gemini-2.5-pro:streamGenerateContent";
        let api = Api::of("POST", path).unwrap();
        let question = Question::of(
            api,
            path,
            &json!({
                "contents": [
                    {"role": "user", "parts": [{"text": "list it"}]},
                    {"role": "model", "parts": [{"functionCall": {"name": "list", "args": {}}}]},
                    {"role": "user", "parts": [
                        {"functionResponse": {"name": "list", "response": {"output": "a b"}}},
                    ]},
                ],
                "tools": [{"functionDeclarations": [{"name": "list", "parametersJsonSchema": {}}]}],
                "generationConfig": {"maxOutputTokens": 5},
            }),
        );
        assert_eq!((question.model.as_str(), question.stream), ("gemini-2.5-pro", true));
        assert_eq!((question.last_user.as_str(), question.max_tokens), ("list it", Some(5)));
        assert_eq!(question.tool_results, ["a b"]);
        assert_eq!(question.tools[0].name, "list");
    }

    #[test]
    fn any_prefix_leads_to_an_api() {
        assert_eq!(Api::of("POST", "/openai/deployments/x/chat/completions"), Some(Api::Chat));
        assert_eq!(Api::of("POST", "/v1/messages/count_tokens"), Some(Api::CountTokens));
        assert_eq!(Api::of("GET", "/v1/chat/completions"), None);
    }
}
