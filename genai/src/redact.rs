//! Takes credentials out of text before it leaves the process.
//!
//! Each becomes `[REDACTED:kind]`. The rules know credentials by their own shape, by what stands before them, and by
//! the name of the JSON member that holds them; ordinary prose, UUIDs and hashes stay as they are.

use regex::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};
use serde_json::Value;
use std::borrow::Cow;

/// Knows what a credential looks like. Made once, shared by all.
#[derive(Clone, Debug)]
pub struct Redactor {
    rules: Vec<Rule>,
    /// All rules at once: most texts hold nothing and are read a single time.
    any: RegexSet,
}

/// A pattern of the user's that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PatternError {
    /// More patterns than are allowed.
    #[error("{field}: {count} patterns; at most {MAX_PATTERNS} are allowed")]
    TooMany {
        /// The setting that holds the patterns.
        field: String,
        /// How many there are.
        count: usize,
    },
    /// A pattern longer than is allowed.
    #[error("{field}[{index}]: {length} bytes long; at most {MAX_PATTERN} are allowed")]
    TooLong {
        /// The setting that holds the patterns.
        field: String,
        /// Which of them, from 0.
        index: usize,
        /// Its length in bytes.
        length: usize,
    },
    /// A pattern that is no regular expression, or one that would take too much memory.
    #[error("{field}[{index}]: not a usable regular expression (syntax: docs.rs/regex): {source}")]
    Invalid {
        /// The setting that holds the patterns.
        field: String,
        /// Which of them, from 0.
        index: usize,
        /// What the compiler says.
        source: regex::Error,
    },
    /// A pattern that would match between all characters.
    #[error("{field}[{index}]: matches the empty text; it must match at least one character")]
    Empty {
        /// The setting that holds the patterns.
        field: String,
        /// Which of them, from 0.
        index: usize,
    },
}

/// User patterns, all of which run over every text.
const MAX_PATTERNS: usize = 64;
/// The length of one, in bytes.
const MAX_PATTERN: usize = 1024;
/// What one compiled pattern may take, in bytes.
const MAX_COMPILED: usize = 1 << 20;

#[derive(Clone, Debug)]
struct Rule {
    kind: &'static str,
    guard: Guard,
    regex: Regex,
    secret: Secret,
}

/// Where the credential is, seen from a match. Found by hand: it is of any length, and a regular expression that
/// reads to its end, or looks for it in vain, makes hostile text cost its length squared.
#[derive(Clone, Copy, Debug)]
enum Secret {
    /// It is the match itself.
    Match,
    /// It follows the match: at least so many bytes of a class.
    After(usize, fn(u8) -> bool),
    /// It is a PEM block, of which the match is the first line.
    Pem,
}

/// What a credential must be like beyond its shape.
#[derive(Clone, Copy, Debug)]
enum Guard {
    /// The shape is proof enough.
    None,
    /// It has letters and digits, as random text has and words have not.
    Mixed,
    /// It is what someone assigns to a password: no variable, no type, no placeholder.
    Assigned,
}

/// Kind, guard, pattern, where the credential is. ASCII classes and word boundaries: credentials are ASCII, and
/// Unicode's word boundaries are a hundred times slower on text that is not.
const RULES: &[(&str, Guard, &str, Secret)] = &[
    ("private-key", Guard::None, r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----", Secret::Pem),
    ("anthropic-key", Guard::None, r"(?-u:\b)sk-ant-[A-Za-z0-9_-]{16,}", Secret::Match),
    ("openai-key", Guard::Mixed, r"(?-u:\b)sk-[A-Za-z0-9_-]{20,}", Secret::Match),
    (
        "model-key",
        Guard::Mixed,
        r"(?-u:\b)(?:gsk_|xai-|hf_|r8_|pplx-|nvapi-|csk-|fw_|tgp_v1_|tvly-|jina_|lsv2_(?:pt|sk)_)[A-Za-z0-9_-]{20,}",
        Secret::Match,
    ),
    (
        "google-key",
        Guard::None,
        r"(?-u:\b)(?:AIza[A-Za-z0-9_-]{30,}|ya29\.[A-Za-z0-9_-]{20,}|GOCSPX-[A-Za-z0-9_-]{20,})",
        Secret::Match,
    ),
    (
        "github-token",
        Guard::None,
        r"(?-u:\b)(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{22,})",
        Secret::Match,
    ),
    (
        "gitlab-token",
        Guard::None,
        r"(?-u:\b)gl(?:pat|dt|rt|cbt|ptt|ft|soat|agent|imt)-[A-Za-z0-9_.-]{20,}",
        Secret::Match,
    ),
    (
        "slack-token",
        Guard::None,
        r"(?-u:\b)(?:xox[abeoprs]-[A-Za-z0-9-]{10,}|xapp-[A-Za-z0-9-]{10,}|hooks\.slack\.com/services/[A-Za-z0-9/_-]{20,})",
        Secret::Match,
    ),
    (
        "stripe-key",
        Guard::None,
        r"(?-u:\b)(?:(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,}|whsec_[A-Za-z0-9+/=]{20,})",
        Secret::Match,
    ),
    ("npm-token", Guard::None, r"(?-u:\b)npm_[A-Za-z0-9]{30,}", Secret::Match),
    ("pypi-token", Guard::Mixed, r"(?-u:\b)pypi-[A-Za-z0-9_-]{40,}", Secret::Match),
    (
        "service-token",
        Guard::None,
        r"(?-u:\b)(?:SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}|do[oprt]_v1_[a-f0-9]{40,}|[0-9]{8,10}:AA[A-Za-z0-9_-]{33})",
        Secret::Match,
    ),
    ("aws-key-id", Guard::None, r"(?-u:\b)(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}(?-u:\b)", Secret::Match),
    (
        "azure-key",
        Guard::None,
        r"(?i)(?:AccountKey|SharedAccessKey|SharedAccessSignature)(?-u:\s)*=(?-u:\s)*",
        Secret::After(20, is_token),
    ),
    (
        "signature",
        Guard::None,
        r"(?i)[?&](?:sig|signature|x-amz-signature|x-amz-credential|x-amz-security-token|x-goog-signature|awsaccesskeyid)=",
        Secret::After(8, is_token),
    ),
    (
        "jwt",
        Guard::None,
        r"(?-u:\b)eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*){1,3}",
        Secret::Match,
    ),
    (
        "authorization",
        Guard::None,
        r#"(?i)authorization\\?["']?(?-u:\s)*[:=](?-u:\s)*\\?["']?(?:basic|bearer|token|digest|apikey|negotiate)(?-u:\s)+"#,
        Secret::After(6, is_token),
    ),
    ("bearer-token", Guard::Mixed, r"(?i)(?-u:\b)bearer(?-u:\s)+", Secret::After(12, is_token)),
    ("basic-credentials", Guard::Mixed, r"(?-u:\b)Basic(?-u:\s)+", Secret::After(12, is_token)),
    (
        "url-password",
        Guard::None,
        r#"(?-u:\b)[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s/:@"'<>\\]*:[^\s/@"'<>\\]+@"#,
        Secret::Match,
    ),
    (
        "password",
        Guard::Assigned,
        r#"(?i)(?:password|passwd|passphrase|pwd)\\?["']?(?-u:\s)*(?:=>|=|:)(?-u:\s)*\\?["']?"#,
        Secret::After(4, is_word),
    ),
    (
        "secret",
        Guard::Mixed,
        r#"(?i)(?:api[_-]?key|secret[_-]?key|access[_-]?key(?:[_-]?id)?|private[_-]?key|client[_-]?secret|(?:access|auth|refresh|session|security|bearer|id|api)[_-]?token|(?:_|-|(?-u:\b))(?:token|secret))\\?["']?(?-u:\s)*(?:=>|=|:)(?-u:\s)*\\?["']?"#,
        Secret::After(12, is_token),
    ),
    (
        "argument",
        Guard::Assigned,
        r#"(?i)(?:^|(?-u:\s))--?(?:password|passwd|passphrase|token|api-?key|secret|access-token|auth-token|client-secret)(?-u:\s)+\\?["']?"#,
        Secret::After(4, is_word),
    ),
];

/// The characters of tokens, signatures and base64, also as a URL escapes them.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_./+=~!@#$%^*-".contains(&byte)
}

/// What may stand in a password that is not quoted.
fn is_word(byte: u8) -> bool {
    !byte.is_ascii_whitespace() && !b"\"'`,;&<>\\".contains(&byte)
}

impl Default for Redactor {
    /// The built-in rules alone.
    fn default() -> Redactor {
        Redactor::new("patterns", &[]).expect("the built-in rules are tested")
    }
}

impl Redactor {
    /// The built-in rules and the user's own; `field` is what errors call the setting.
    ///
    /// # Errors
    /// The first pattern that cannot be used, by its place in the setting: it is to be corrected there.
    pub fn new(field: &str, patterns: &[String]) -> Result<Redactor, PatternError> {
        let field = || field.to_owned();
        if patterns.len() > MAX_PATTERNS {
            return Err(PatternError::TooMany { field: field(), count: patterns.len() });
        }
        let mut rules = Vec::with_capacity(RULES.len() + patterns.len());
        for (index, pattern) in patterns.iter().enumerate() {
            if pattern.len() > MAX_PATTERN {
                return Err(PatternError::TooLong { field: field(), index, length: pattern.len() });
            }
            let regex =
                compile(pattern).map_err(|source| PatternError::Invalid { field: field(), index, source })?;
            if regex.is_match("") {
                return Err(PatternError::Empty { field: field(), index });
            }
            rules.push(Rule { kind: "pattern", guard: Guard::None, regex, secret: Secret::Match });
        }
        for (kind, guard, pattern, secret) in RULES {
            let regex = compile(pattern).expect("the built-in rules are tested");
            rules.push(Rule { kind, guard: *guard, regex, secret: *secret });
        }
        let any = RegexSetBuilder::new(rules.iter().map(|rule| rule.regex.as_str()))
            .size_limit(MAX_COMPILED * (1 + rules.len()))
            .build()
            .expect("each of the patterns compiled alone within its share");
        Ok(Redactor { rules, any })
    }

    /// The text without credentials.
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut clean = Cow::Borrowed(text);
        // No credential is shorter.
        if text.len() < 4 {
            return clean;
        }
        for index in self.any.matches(text) {
            if let Some(replaced) = self.rules[index].apply(&clean) {
                clean = Cow::Owned(replaced);
            }
        }
        clean
    }

    /// Cleans every text in a value, keys included; what a member named like a secret holds goes whole.
    pub fn json(&self, value: &mut Value) {
        match value {
            Value::String(text) => self.string(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.json(item)),
            Value::Object(map) => {
                for (key, value) in map.iter_mut() {
                    match value {
                        Value::String(text) if holds_secret(key, text) => {
                            "[REDACTED:member]".clone_into(text);
                        }
                        value => self.json(value),
                    }
                }
                if map.keys().any(|key| matches!(self.text(key), Cow::Owned(_))) {
                    let old = std::mem::take(map);
                    map.extend(old.into_iter().map(|(key, value)| (self.text(&key).into_owned(), value)));
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Cleans a text in place.
    pub fn string(&self, text: &mut String) {
        if let Cow::Owned(clean) = self.text(text) {
            *text = clean;
        }
    }

    /// Cleans a command line, where the name of an option and its value may be two arguments.
    pub fn arguments(&self, arguments: &mut [String]) {
        let mut secret_next = false;
        for argument in arguments {
            if secret_next && !argument.starts_with('-') {
                "[REDACTED:argument]".clone_into(argument);
                secret_next = false;
                continue;
            }
            let name = argument.trim_start_matches('-');
            secret_next = argument.starts_with('-') && !name.contains('=') && is_secret_name(name);
            self.string(argument);
        }
    }
}

fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern).size_limit(MAX_COMPILED).build()
}

impl Rule {
    /// The text without what the rule finds; none where it finds nothing.
    fn apply(&self, text: &str) -> Option<String> {
        let mut clean = String::new();
        let (mut copied, mut from) = (0, 0);
        while let Some(found) = self.regex.find_at(text, from) {
            from = found.end();
            let Some((start, end)) = self.secret(text, found.start(), found.end()) else { continue };
            clean.push_str(&text[copied..start]);
            clean.push_str("[REDACTED:");
            clean.push_str(self.kind);
            clean.push(']');
            (copied, from) = (end, end);
        }
        if copied == 0 {
            return None;
        }
        clean.push_str(&text[copied..]);
        Some(clean)
    }

    /// Where the credential of a match is.
    fn secret(&self, text: &str, start: usize, end: usize) -> Option<(usize, usize)> {
        // Enough to tell random text from words.
        const LOOKED_AT: usize = 256;
        match self.secret {
            Secret::Match => {
                let found = &text[start..end];
                let found = match self.kind {
                    // Scheme, user and host stay.
                    "url-password" => found.rfind(':').map(|colon| (start + colon + 1, end - 1))?,
                    _ => (start, end),
                };
                self.guard.allows(&text[found.0..found.1]).then_some(found)
            }
            Secret::After(least, class) => {
                let rest = &text.as_bytes()[end..];
                let run = |bytes: &[u8]| bytes.iter().position(|byte| !class(*byte)).unwrap_or(bytes.len());
                let mut seen = run(&rest[..rest.len().min(LOOKED_AT)]);
                while !text.is_char_boundary(end + seen) {
                    seen -= 1;
                }
                let value = &text[end..end + seen];
                if seen < least || value.starts_with("[REDACTED:") || !self.guard.allows(value) {
                    return None;
                }
                Some((end, end + run(rest)))
            }
            Secret::Pem => Some((start, pem_end(text, end))),
        }
    }
}

/// Where a PEM block ends whose first line ends at `from`: behind its last line, or, where that is missing, behind
/// what can be its body.
fn pem_end(text: &str, from: usize) -> usize {
    const DASHES: &str = "-----";
    let rest = &text[from..];
    if let Some(next) = rest.find(DASHES) {
        let line = &rest[next..];
        if line.starts_with("-----END ") {
            let end = line[DASHES.len()..].find(DASHES).map_or(line.len(), |at| at + 2 * DASHES.len());
            // 64: the longest label that PEM has, generously.
            if end <= 64 {
                return from + next + end;
            }
        }
    }
    let body = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=\\ \r\n\t".contains(byte);
    from + rest.bytes().position(|byte| !body(&byte)).unwrap_or(rest.len())
}

impl Guard {
    fn allows(self, text: &str) -> bool {
        match self {
            Guard::None => true,
            Guard::Mixed => is_mixed(text) && !is_uuid(text),
            Guard::Assigned => {
                let all = |class: fn(&u8) -> bool| text.bytes().all(|byte| class(&byte));
                let variable = text.starts_with(['$', '%', '*', '.']) || text.contains(['(', '[', '{']);
                // Types, placeholders, the words of prose, and paths of names.
                let word = all(|byte| byte.is_ascii_alphabetic() || b"._-?!".contains(byte));
                !variable && !word && text.is_ascii()
            }
        }
    }
}

fn is_mixed(text: &str) -> bool {
    text.bytes().any(|byte| byte.is_ascii_digit()) && text.bytes().any(|byte| byte.is_ascii_alphabetic())
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// Whether a member of that name holds a secret.
fn holds_secret(key: &str, text: &str) -> bool {
    is_secret_name(key) && !text.is_empty() && (normalized(key) != "token" || is_mixed(text))
}

fn is_secret_name(name: &str) -> bool {
    const NAMES: &[&str] = &[
        "accesskey",
        "accesstoken",
        "apikey",
        "apitoken",
        "authorization",
        "authtoken",
        "bearertoken",
        "clientsecret",
        "cookie",
        "idtoken",
        "passphrase",
        "passwd",
        "password",
        "privatekey",
        "proxyauthorization",
        "pwd",
        "refreshtoken",
        "secret",
        "secretaccesskey",
        "secretkey",
        "sessiontoken",
        "setcookie",
        "signingkey",
        "token",
        "xapikey",
        "xgoogapikey",
    ];
    // 64: no longer name is in the list, whatever separates its words.
    name.len() <= 64 && {
        let name = normalized(name);
        NAMES.binary_search(&name.as_str()).is_ok()
            || ["password", "secretkey", "apikey", "accesstoken", "clientsecret", "secretaccesskey"]
                .iter()
                .any(|end| name.ends_with(end))
    }
}

fn normalized(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|char| char.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn redact(text: &str) -> String {
        Redactor::default().text(text).into_owned()
    }

    /// Made up at run time, so that no scanner takes this file for a leak.
    fn random(length: usize) -> String {
        "aB3dE5fG7hJ9kL2mN4pQ6rS8tU0vW1xY".chars().cycle().take(length).collect()
    }

    #[test]
    fn credentials_are_known_by_their_shape() {
        let r = random;
        for (kind, secret) in [
            ("openai-key", format!("sk-{}", r(48))),
            ("openai-key", format!("sk-proj-{}_{}", r(40), r(20))),
            ("openai-key", format!("sk-or-v1-{}", r(64))),
            ("anthropic-key", format!("sk-ant-api03-{}", r(90))),
            ("google-key", format!("AIza{}", r(35))),
            ("model-key", format!("gsk_{}", r(52))),
            ("model-key", format!("xai-{}", r(80))),
            ("model-key", format!("hf_{}", r(34))),
            ("model-key", format!("r8_{}", r(37))),
            ("model-key", format!("pplx-{}", r(48))),
            ("github-token", format!("ghp_{}", r(36))),
            ("github-token", format!("github_pat_{}", r(82))),
            ("gitlab-token", format!("glpat-{}", r(20))),
            ("slack-token", format!("xoxb-{}", "123456789012-abcdefABCDEF")),
            ("stripe-key", format!("sk_live_{}", r(24))),
            ("npm-token", format!("npm_{}", r(36))),
            ("pypi-token", format!("pypi-{}", r(100))),
            ("aws-key-id", format!("AKIA{}", "IOSFODNN7EXAMPLE")),
            ("jwt", format!("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.{}", r(43))),
        ] {
            let got = redact(&format!("my key is {secret}, keep it"));
            assert_eq!(got, format!("my key is [REDACTED:{kind}], keep it"));
        }
    }

    #[test]
    fn credentials_are_known_by_what_stands_before_them() {
        let r = random;
        for (text, secret) in [
            (format!("Authorization: Bearer {}", r(40)), r(40)),
            ("curl -H 'Authorization: Basic dXNlcjpwYXNz'".to_owned(), "dXNlcjpwYXNz".to_owned()),
            (format!("AWS_SECRET_ACCESS_KEY={}", r(40)), r(40)),
            (format!("aws_secret_access_key = {}", r(40)), r(40)),
            (format!("AccountName=x;AccountKey={}==;EndpointSuffix=core", r(86)), r(86)),
            (format!("https://x.blob.core.windows.net/c?sv=2024&sig={}", r(43)), r(43)),
            ("postgres://app:hunter2@db:5432/app".to_owned(), "hunter2".to_owned()),
            ("password=hunter22".to_owned(), "hunter22".to_owned()),
            ("{\\\"password\\\": \\\"hunter22\\\"}".to_owned(), "hunter22".to_owned()),
            (format!("api_key: \"{}\"", r(32)), r(32)),
            (format!("export MY_TOKEN={}", r(32)), r(32)),
            ("mysql --password hunter22 -u root".to_owned(), "hunter22".to_owned()),
        ] {
            let got = redact(&text);
            assert!(!got.contains(&secret) && got.contains("[REDACTED:"), "{text} became {got}");
        }
    }

    #[test]
    fn a_private_key_goes_whole_also_escaped_and_also_cut() {
        let body = random(64);
        let key = format!("-----BEGIN RSA PRIVATE KEY-----\n{body}\n{body}\n-----END RSA PRIVATE KEY-----");
        assert_eq!(redact(&format!("a\n{key}\nb")), "a\n[REDACTED:private-key]\nb");
        let escaped = key.replace('\n', "\\n");
        assert_eq!(redact(&format!("\"{escaped}\"")), "\"[REDACTED:private-key]\"");
        let cut = &key[..80];
        assert_eq!(redact(cut), "[REDACTED:private-key]");
    }

    #[test]
    fn ordinary_text_stays_as_it_is() {
        for text in [
            "The password must be changed every 90 days. Password: required. Your token budget is 4096.",
            "commit 9fceb02d0ae598e95dc970b74767f19372d61af8 and 550e8400-e29b-41d4-a716-446655440000",
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "use scikit-learn (sk-learn) or risk-management-and-other-hyphenated-words-of-any-length",
            "password = os.environ[\"DB_PASSWORD\"]; api_key = settings.api_key; token: str",
            "Basic authentication and bearer authentication-mechanisms are explained below",
            "https://example.com:8443/path?key=value&sort=asc and mailto:a@example.com",
            "max_tokens: 100, \"token_count\": 12345678901234, tokens: 200000",
            "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk",
            "call_90uO5LcGP5vTBTCrjyhYtWsA toolu_01UAcA2APHENDob6qJ8kmoaC chatcmpl-ASYMaNc7XmbGRUNREnmvhyyISBHsv",
            "Ein Schlüssel: 日本語のテキスト password：これ",
        ] {
            assert_eq!(redact(text), text);
        }
    }

    #[test]
    fn members_named_like_a_secret_lose_their_value_and_keys_are_read_too() {
        let key = format!("ghp_{}", random(36));
        let mut value = json!({
            "db": {"password": "short", "user": "bob", "properties": {"password": {"type": "string"}}},
            "headers": [{"Authorization": "anything"}],
            "token": "next", "max_tokens": 5,
            (key.clone()): "x",
        });
        Redactor::default().json(&mut value);
        assert_eq!(
            value,
            json!({
                "db": {"password": "[REDACTED:member]", "user": "bob", "properties": {"password": {"type": "string"}}},
                "headers": [{"Authorization": "[REDACTED:member]"}],
                "token": "next", "max_tokens": 5,
                "[REDACTED:github-token]": "x",
            })
        );
    }

    #[test]
    fn a_command_line_loses_the_values_of_secret_options() {
        let mut arguments: Vec<String> =
            ["mysql", "--password", "p", "-u", "root", "--api-key=abcdef0123456789"]
                .map(str::to_owned)
                .to_vec();
        Redactor::default().arguments(&mut arguments);
        assert_eq!(
            arguments,
            ["mysql", "--password", "[REDACTED:argument]", "-u", "root", "--api-key=[REDACTED:secret]"]
        );
    }

    #[test]
    fn the_users_patterns_are_used_and_a_bad_one_is_named() {
        let own = Redactor::new("redact", &["EMP-[0-9]{4}".to_owned()]).unwrap();
        assert_eq!(own.text("ask EMP-1234 now"), "ask [REDACTED:pattern] now");
        let error =
            |pattern: &str| Redactor::new("spec.redact", &[pattern.to_owned()]).unwrap_err().to_string();
        assert!(error("(").starts_with("spec.redact[0]: not a usable regular expression"));
        assert!(error("a*").starts_with("spec.redact[0]: matches the empty text"));
        assert!(error(&"a".repeat(2000)).starts_with("spec.redact[0]: 2000 bytes long"));
        assert!(error("(a{1000}){1000}").starts_with("spec.redact[0]: not a usable regular expression"));
    }
}
