//! What joins a call with other calls and with what the system does: fingerprints of its history, tool calls and
//! their results, ids. It is read whether content is kept or not, and holds no text of a prompt or an answer, except
//! [`Private`], which never leaves the process.

use siphasher::sip::SipHasher13;
use std::hash::Hasher as _;

/// What a call is joined by.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Links {
    /// The exchange's number within its connection, from one.
    pub exchange: u64,
    /// The messages of the request.
    pub history: History,
    /// The request offers tools of the client's: who asks is an agent.
    pub offers_tools: bool,
    /// Results of tools in the request, in its order; of many the latest.
    pub results: Vec<ToolResult>,
    /// The response that the request continues.
    pub previous_response_id: Option<String>,
    /// What the client says of itself.
    pub client: Client,
    /// The tools of the client's that the response asks for, in its order.
    pub asks: Vec<ToolAsk>,
}

/// The messages of a request as fingerprints: the same history gives the same ones, under one key.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct History {
    /// How many messages there are.
    pub length: u32,
    /// The last of them.
    pub last: Vec<Message>,
    /// Of the texts of the last message of a user, each by itself; of many the first.
    pub user_texts: Vec<Fingerprint>,
}

/// A message of a history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// Of all messages up to and with this one.
    pub prefix: Fingerprint,
    /// Whose message it is.
    pub author: Author,
}

/// Whose a message is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Author {
    /// A user, whoever that is.
    User,
    /// The model.
    Model,
    /// A tool: the message holds a result.
    Tool,
    /// Instructions, and anything else.
    Other,
}

/// A tool's result in a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ToolResult {
    /// The id of the call that it answers.
    pub id: String,
    /// The client says that the tool failed.
    pub failed: bool,
}

/// A tool that a response asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ToolAsk {
    /// The call's id.
    pub id: Option<String>,
    /// The tool's name.
    pub name: String,
    /// What it is called with: JSON text, or the text of a tool that takes one.
    pub arguments: Private,
    /// The arguments are longer than what is held of them.
    pub cut: bool,
}

/// Ids that a client sends along, as headers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Client {
    /// The product, where it is an agent that is known.
    pub product: Option<&'static str>,
    /// A session or thread: a conversation's real id.
    pub session: Option<String>,
    /// An agent within the session; the main one has none.
    pub agent: Option<String>,
    /// The session or thread that started this one.
    pub parent: Option<String>,
}

impl Client {
    /// Whether it says that another agent started it.
    pub fn is_sub_agent(&self) -> bool {
        self.agent.is_some() || self.parent.is_some()
    }
}

/// Text that is held to join things and for nothing else: it is never shown and never sent.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Private(String);

impl Private {
    /// Holds a text.
    pub fn new(text: String) -> Private {
        Private(text)
    }

    /// The text, to be compared, or to be sent where content is asked for.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Private {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Private({} bytes)", self.0.len())
    }
}

/// A number that only the same text gives, under one key. It tells nothing of the text to those without the key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Fingerprint(pub u64);

/// What fingerprints are made with: random for each run of the agent, and never told.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct FingerprintKey([u8; 16]);

impl FingerprintKey {
    /// A key of random bytes.
    pub fn new(random: [u8; 16]) -> FingerprintKey {
        FingerprintKey(random)
    }

    /// The fingerprint of a text, as that of a JSON string.
    pub fn of(self, text: &str) -> Fingerprint {
        let mut hasher = self.hasher();
        hasher.write(text.as_bytes());
        Fingerprint(hasher.finish())
    }

    pub(crate) fn hasher(self) -> Hasher {
        Hasher(SipHasher13::new_with_key(&self.0))
    }
}

impl std::fmt::Debug for FingerprintKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FingerprintKey")
    }
}

/// Makes one fingerprint of bytes that come in pieces, wherever they are cut.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hasher(SipHasher13);

impl Hasher {
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    pub(crate) fn finish(&self) -> u64 {
        self.0.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_the_same_wherever_the_text_is_cut_and_another_under_another_key() {
        let (one, two) = (FingerprintKey::new([1; 16]), FingerprintKey::new([2; 16]));
        let text = "a text that is longer than one block of the hash";
        for cut in 0..=text.len() {
            let mut hasher = one.hasher();
            hasher.write(&text.as_bytes()[..cut]);
            hasher.write(&text.as_bytes()[cut..]);
            assert_eq!(Fingerprint(hasher.finish()), one.of(text), "{cut}");
        }
        assert_ne!(one.of(text), two.of(text));
    }

    #[test]
    fn what_is_private_is_not_shown() {
        assert_eq!(format!("{:?}", Private::new("rm -rf".to_owned())), "Private(6 bytes)");
    }
}
