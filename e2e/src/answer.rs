//! What the model says: decided by the question alone, so that a test can know it beforehand.
//!
//! - A user message that names a listed tool (its name, or the last word of it: "weather" for `get_weather`) is
//!   answered with a call of it, one for each time it is named; JSON right behind the name is the arguments, else
//!   they are made up by the schema.
//! - After tool results comes a text that holds them.
//! - With a schema the text is JSON that fits it.
//! - Otherwise the text repeats the start of the question.
//!
//! Tokens are counted by [`tokens`]: over the text, the arguments of calls and the reasoning of all choices.

use crate::behaviour::Behaviour;
use crate::ids::Ids;
use crate::question::{Api, Question, Tool, tokens};
use serde_json::{Map, Value, json};

/// An answer, whichever API it goes out by.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The model that the response names.
    pub model: String,
    /// One for each that was asked for.
    pub choices: Vec<Choice>,
    /// Tokens of the request, cached ones included.
    pub input_tokens: u64,
    /// Those of them that came from a cache.
    pub cached_tokens: u64,
    /// Those of them that were written to a cache.
    pub cache_write_tokens: u64,
    /// Tokens of the answer, reasoning included.
    pub output_tokens: u64,
    /// Those of them that were spent on reasoning.
    pub reasoning_tokens: u64,
}

/// One choice.
#[derive(Clone, Debug)]
pub struct Choice {
    /// What it thought.
    pub reasoning: Option<String>,
    /// What it said.
    pub text: String,
    /// The text is a refusal.
    pub refused: bool,
    /// What it wants done.
    pub calls: Vec<Call>,
    /// Why it ended.
    pub finish: Finish,
}

/// A call of a tool.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its id.
    pub id: String,
    /// The tool.
    pub name: String,
    /// JSON text.
    pub arguments: String,
}

/// Why an answer ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Finish {
    /// It was complete.
    Stop,
    /// One of the request's stop sequences came.
    Sequence(String),
    /// The limit on tokens was reached.
    Length,
    /// Tools are to be called.
    Tools,
    /// A filter stopped it.
    Filter,
    /// The model refused.
    Refusal,
}

/// The longest part of a question that an answer repeats, in bytes.
const ECHO: usize = 160;

impl Answer {
    /// The answer to `question`.
    pub fn to(question: &Question, behaviour: &Behaviour, ids: &mut Ids) -> Self {
        let choices: Vec<_> =
            (0..question.choices).map(|n| Choice::to(question, behaviour, ids, n)).collect();
        let mut output_bytes = 0;
        let mut reasoning_tokens = 0;
        for choice in &choices {
            output_bytes += choice.text.len();
            output_bytes += choice.calls.iter().map(|c| c.name.len() + c.arguments.len()).sum::<usize>();
            reasoning_tokens += choice.reasoning.as_ref().map_or(0, |r| tokens(r.len()));
        }
        Self {
            model: behaviour.model.clone().unwrap_or_else(|| served_model(&question.model)),
            choices,
            input_tokens: question.input_tokens,
            cached_tokens: behaviour.cached.min(question.input_tokens),
            cache_write_tokens: behaviour
                .cache_write
                .min(question.input_tokens.saturating_sub(behaviour.cached)),
            output_tokens: tokens(output_bytes) + reasoning_tokens,
            reasoning_tokens,
        }
    }
}

/// OpenAI answers an alias of a model with the dated name behind it.
fn served_model(model: &str) -> String {
    match model {
        "gpt-4o" => "gpt-4o-2024-08-06".to_owned(),
        "gpt-4o-mini" => "gpt-4o-mini-2024-07-18".to_owned(),
        other => other.to_owned(),
    }
}

impl Choice {
    fn to(question: &Question, behaviour: &Behaviour, ids: &mut Ids, number: usize) -> Self {
        let asked = (question.reasons || behaviour.reasoning.is_some())
            && !matches!(question.api, Api::Embeddings | Api::Completions);
        let reasoning = asked.then(|| {
            behaviour.reasoning.clone().unwrap_or_else(|| {
                format!("The user asks: {}. I consider what is known.", start_of(&question.last_user))
            })
        });
        let text_only = |text: String, refused: bool, finish: Finish| Self {
            reasoning: reasoning.clone(),
            text,
            refused,
            calls: Vec::new(),
            finish,
        };
        if behaviour.refuse {
            return text_only("I cannot help with that.".to_owned(), true, Finish::Refusal);
        }
        if question.tool_results.is_empty() && behaviour.bytes.is_none() {
            let calls = calls(question, ids);
            if !calls.is_empty() {
                return Self { reasoning, text: String::new(), refused: false, calls, finish: Finish::Tools };
            }
        }
        let mut text = match (behaviour.bytes, &question.schema) {
            (Some(bytes), _) => ids.text(bytes),
            (None, Some(schema)) => example(schema, &question.last_user, 0).to_string(),
            (None, None) if !question.tool_results.is_empty() => {
                format!("Done. The tools say: {}", question.tool_results.join("; "))
            }
            (None, None) => format!("You said: {}", start_of(&question.last_user)),
        };
        if number > 0 {
            text.push_str(&format!(" (choice {number})"));
        }
        let mut finish = if behaviour.filter { Finish::Filter } else { Finish::Stop };
        if let Some((at, stop)) =
            question.stop.iter().filter_map(|stop| text.find(stop.as_str()).map(|at| (at, stop))).min()
        {
            text.truncate(at);
            finish = Finish::Sequence(stop.clone());
        }
        if let Some(limit) = question.max_tokens
            && tokens(text.len()) > limit
        {
            text.truncate(text.floor_char_boundary(limit as usize * 4));
            finish = Finish::Length;
        }
        text_only(text, false, finish)
    }
}

fn start_of(text: &str) -> &str {
    &text[..text.floor_char_boundary(ECHO)]
}

/// The calls that the last user message asks for, in its order.
fn calls(question: &Question, ids: &mut Ids) -> Vec<Call> {
    let said = &question.last_user[..question.last_user.floor_char_boundary(64 << 10)];
    let mut wanted: Vec<(usize, &Tool, Value)> = Vec::new();
    for tool in &question.tools {
        let short = tool.name.rsplit(['_', '-']).next().unwrap_or(&tool.name);
        let name = if said.contains(&tool.name) { tool.name.as_str() } else { short };
        for (at, _) in said.match_indices(name) {
            wanted.push((at, tool, arguments(tool, said, &said[at + name.len()..])));
        }
    }
    wanted.sort_by_key(|(at, ..)| *at);
    if let (true, true, Some(tool)) = (wanted.is_empty(), question.forced, question.tools.first()) {
        wanted.push((0, tool, arguments(tool, said, "")));
    }
    if !question.parallel {
        wanted.truncate(1);
    }
    let mut call = |(_, tool, arguments): (usize, &Tool, Value)| Call {
        id: if question.api.is_anthropic() { ids.id("toolu_01", 22) } else { ids.id("call_", 24) },
        name: tool.name.clone(),
        arguments: arguments.to_string(),
    };
    wanted.into_iter().map(&mut call).collect()
}

fn arguments(tool: &Tool, said: &str, behind: &str) -> Value {
    let json = behind.trim_start_matches([' ', '(']);
    if json.starts_with('{')
        && let Some(Ok(arguments @ Value::Object(_))) =
            serde_json::Deserializer::from_str(json).into_iter().next()
    {
        return arguments;
    }
    example(&tool.parameters, said, 0)
}

/// A value that fits a JSON schema; text is the first capitalised word behind the question's first one.
fn example(schema: &Value, said: &str, depth: usize) -> Value {
    if let Some(first) = schema["enum"].get(0) {
        return first.clone();
    }
    if depth > 8 {
        return Value::Null;
    }
    let kind = schema["type"].as_str().or_else(|| schema["type"][0].as_str()).unwrap_or_default();
    match kind {
        "string" => json!(subject(said)),
        "integer" => json!(7),
        "number" => json!(1.5),
        "boolean" => json!(true),
        "array" => json!([example(&schema["items"], said, depth + 1)]),
        _ => {
            let properties = schema["properties"].as_object().into_iter().flatten();
            let fields: Map<_, _> =
                properties.map(|(name, schema)| (name.clone(), example(schema, said, depth + 1))).collect();
            Value::Object(fields)
        }
    }
}

fn subject(said: &str) -> &str {
    let words = said.split_whitespace().skip(1);
    let trimmed = words.map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()));
    trimmed.into_iter().find(|word| word.chars().next().is_some_and(char::is_uppercase)).unwrap_or("example")
}

/// Cuts text into `count` deltas, or into deltas of four tokens, 400 at most.
pub fn deltas(text: &str, count: Option<usize>) -> Vec<&str> {
    let count = count.unwrap_or_else(|| text.len().div_ceil(16).min(400)).max(1);
    let size = text.len().div_ceil(count).max(1);
    let mut rest = text;
    let mut deltas = Vec::with_capacity(count);
    while !rest.is_empty() {
        // A delta is never less than one character.
        let first = rest.chars().next().map_or(1, char::len_utf8);
        let (delta, behind) = rest.split_at(rest.floor_char_boundary(size.max(first)));
        deltas.push(delta);
        rest = behind;
    }
    deltas
}

#[cfg(test)]
mod tests {
    use super::{Answer, Finish, deltas};
    use crate::behaviour::Behaviour;
    use crate::ids::Ids;
    use crate::question::{Api, Question};
    use crate::request::Request;
    use serde_json::{Value, json};

    fn answer(body: &Value) -> Answer {
        let behaviour = Behaviour::of(&Request::default()).unwrap();
        Answer::to(&Question::of(Api::Chat, "/v1/chat/completions", body), &behaviour, &mut Ids::new(1, 1))
    }

    fn weather(user: &str) -> Value {
        json!({"messages": [{"role": "user", "content": user}], "tools": [{"type": "function", "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        }}]})
    }

    #[test]
    fn a_named_tool_is_called_once_for_each_time_it_is_named() {
        let answer =
            answer(&weather(r#"get_weather {"city":"Paris"} and get_weather({"city": "Rome"}), please"#));
        let calls: Vec<_> = answer.choices[0].calls.iter().map(|c| c.arguments.as_str()).collect();
        assert_eq!(calls, [r#"{"city":"Paris"}"#, r#"{"city":"Rome"}"#]);
        assert_eq!(answer.choices[0].finish, Finish::Tools);
    }

    #[test]
    fn arguments_are_made_up_from_the_question_by_the_schema() {
        let answer = answer(&weather("What is the weather in Lisbon today?"));
        assert_eq!(answer.choices[0].calls[0].arguments, r#"{"city":"Lisbon"}"#);
    }

    #[test]
    fn a_limit_on_tokens_cuts_the_text() {
        let answer = answer(&json!({"max_tokens": 2, "messages": [{"role": "user", "content": "żółw"}]}));
        assert_eq!(answer.choices[0].text, "You said");
        assert_eq!(answer.choices[0].finish, Finish::Length);
        assert_eq!(answer.output_tokens, 2);
    }

    #[test]
    fn deltas_put_together_are_the_text() {
        for count in [None, Some(1), Some(3), Some(1000)] {
            assert_eq!(deltas("zażółć 🦀 gęślą jaźń", count).concat(), "zażółć 🦀 gęślą jaźń");
        }
    }
}
