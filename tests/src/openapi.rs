//! The document of the API, and whether answers are as it says.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// An OpenAPI 3.1 document; its schemas are JSON Schemas of the draft 2020-12.
#[derive(Debug)]
pub struct Document(Value);

/// One of its operations.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Method, in capitals.
    pub method: String,
    /// Path, with `{name}` where something is to be put in.
    pub path: String,
    /// What it does.
    pub summary: String,
    /// Role that it takes.
    pub role: String,
}

impl Document {
    /// Reads one, and makes it strict: what it doesn't mention is not allowed in an answer.
    ///
    /// # Panics
    /// When it is no JSON.
    pub fn new(text: &str) -> Self {
        let mut document: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        let mut parts = Vec::new();
        references_in_parts(&document, false, &mut parts);
        if let Some(schemas) = document.pointer_mut("/components/schemas").and_then(Value::as_object_mut) {
            for (name, schema) in schemas.iter_mut() {
                let composed = schema.get("properties").is_some() || schema.get("allOf").is_some();
                if composed && !parts.contains(name) && schema.get("additionalProperties").is_none() {
                    schema["unevaluatedProperties"] = false.into();
                }
            }
        }
        Self(document)
    }

    /// All operations.
    ///
    /// # Panics
    /// When one has no role.
    pub fn operations(&self) -> Vec<Operation> {
        let mut operations = Vec::new();
        let paths = self.0["paths"].as_object().expect("a document has paths");
        for (path, methods) in paths {
            for (method, operation) in methods.as_object().expect("a path has methods") {
                let text = |key: &str| operation[key].as_str().unwrap_or_default().to_owned();
                let role = text("x-role");
                assert!(!role.is_empty(), "{method} {path} has no role");
                operations.push(Operation {
                    method: method.to_uppercase(),
                    path: path.clone(),
                    summary: text("summary"),
                    role,
                });
            }
        }
        operations
    }

    /// Checks that nothing that is referred to is missing.
    ///
    /// # Panics
    /// When something is.
    pub fn every_reference_leads_somewhere(&self) {
        let mut references = Vec::new();
        references_of(&self.0, &mut references);
        assert!(!references.is_empty(), "there are references");
        for reference in references {
            let pointer = reference.strip_prefix('#').expect("a reference within the document");
            assert!(self.0.pointer(pointer).is_some(), "{reference} leads nowhere");
        }
    }

    /// Checks an answer.
    ///
    /// # Panics
    /// When it is not as the document says.
    pub fn check(&self, method: &str, path: &str, status: u16, answer: &str) {
        let what = format!("{method} {path}: {status}");
        let responses = &self.0["paths"][path][method.to_lowercase()]["responses"];
        let response = match responses.get(status.to_string()) {
            Some(response) => response,
            None if status >= 400 => &responses["default"],
            None => panic!("{what} is not in the document"),
        };
        let content = response["content"].as_object().unwrap_or_else(|| panic!("{what} has no content"));
        let Some(json) = content.get("application/json") else {
            assert!(content.contains_key("text/plain") && !answer.is_empty(), "{what}: {answer}");
            return;
        };
        let mut schema = json["schema"].clone();
        schema["components"] = self.0["components"].clone();
        let validator = jsonschema::draft202012::new(&schema).unwrap_or_else(|error| panic!("{what}: {error}"));
        let value: Value = serde_json::from_str(answer).unwrap_or_else(|error| panic!("{what}: {error}: {answer}"));
        let errors: Vec<String> =
            validator.iter_errors(&value).map(|error| format!("{}: {error}", error.instance_path)).collect();
        assert!(errors.is_empty(), "{what} is not as the document says: {errors:#?}\n{value:#}");
    }
}

/// Names of the schemas that are parts of others (`allOf`): what they don't mention, those may.
fn references_in_parts(value: &Value, part: bool, names: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value.as_str().filter(|_| part && key == "$ref") {
                    Some(reference) => names.extend(reference.rsplit('/').next().map(str::to_owned)),
                    None => references_in_parts(value, key == "allOf", names),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references_in_parts(item, part, names)),
        _ => {}
    }
}

fn references_of<'a>(value: &'a Value, references: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            references.extend(fields.get("$ref").and_then(Value::as_str));
            fields.values().for_each(|value| references_of(value, references));
        }
        Value::Array(items) => items.iter().for_each(|item| references_of(item, references)),
        _ => {}
    }
}

/// Asks by a Unix socket; returns the status and the body.
///
/// # Panics
/// When there is no answer.
pub async fn over_unix(socket: &Path, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).await.expect("somebody listens");
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(format!("{head}{body}").as_bytes()).await.expect("it is taken");
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut bytes)).await;
    read.expect("an answer in time").expect("an answer");
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let chunked = head.to_lowercase().contains("transfer-encoding: chunked");
    assert!(!chunked, "answers come in one piece: {head}");
    (status.unwrap_or_else(|| panic!("no status: {head}")), body.to_owned())
}
