//! `[api]`: the API over TLS, and who may use it.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Serialize;

use super::Config;
use super::reader::{Notes, Section};
use crate::api::access::{Fingerprint, Role};

/// `[api]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ApiConfig {
    /// TCP addresses to serve the API on, over TLS; empty: on the daemon's Unix socket only.
    pub listen: Vec<SocketAddr>,
    /// Certificate of the gateway, and those between it and its authority, as PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// Its private key, as PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// Certificate of the authority that issues those of users, as PEM; may be several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<PathBuf>,
    /// `[[api.user]]`: who may do what.
    #[serde(rename = "user", skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<ApiUser>,
}

/// `[[api.user]]`: the owner of a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ApiUser {
    /// Common name in the certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// SHA-256 of the certificate: this one alone, whatever else the authority issues.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<Fingerprint>,
    /// What they may do.
    pub role: Role,
}

impl ApiConfig {
    /// What the owner of a certificate may do: the highest role of all entries that fit.
    pub fn role(&self, name: &str, fingerprint: &Fingerprint) -> Option<Role> {
        let fits = |user: &&ApiUser| {
            user.name.as_ref().is_none_or(|wanted| wanted == name)
                && user.fingerprint.as_ref().is_none_or(|wanted| wanted == fingerprint)
        };
        self.users.iter().filter(fits).map(|user| user.role).max()
    }
}

/// Reads the section.
pub(super) fn read(api: &mut ApiConfig, mut section: Section<'_>, notes: &mut Notes) {
    api.listen = section.list(notes, "listen", "an address such as \"192.0.2.1:9587\"");
    api.certificate = section.take(notes, "certificate", "a path");
    api.key = section.take(notes, "key", "a path");
    api.client_ca = section.take(notes, "client_ca", "a path");
    api.users = section.sections(notes, "user").into_iter().filter_map(|section| user(section, notes)).collect();
    section.finish(notes);
}

fn user(mut section: Section<'_>, notes: &mut Notes) -> Option<ApiUser> {
    let name: Option<String> = section.take(notes, "name", "a common name in quotes");
    let fingerprint: Option<Fingerprint> = section.take(notes, "fingerprint", "64 hexadecimal digits in quotes");
    let role: Option<Role> = section.take(notes, "role", "\"viewer\", \"operator\" or \"admin\"");
    let set = |notes: &Notes, key: &str| notes.origins.contains_key(&section.key(key));
    if !set(notes, "role") {
        notes.problem(&section.key("role"), "this user has no role", "add role = \"viewer\"");
    }
    // One that can't be read must not become one that fits everybody.
    let unread = (set(notes, "name") && name.is_none()) || (set(notes, "fingerprint") && fingerprint.is_none());
    if !set(notes, "name") && !set(notes, "fingerprint") {
        let remedy = "add the common name in the certificate: name = \"alice\"";
        notes.problem(&section.key("name"), "this user has neither a name nor a fingerprint", remedy);
    }
    section.finish(notes);
    let known = !unread && (name.is_some() || fingerprint.is_some());
    role.filter(|_| known).map(|role| ApiUser { name, fingerprint, role })
}

/// Notes what is wrong with it.
pub(super) fn validate(config: &Config, notes: &mut Notes) {
    let api = &config.api;
    for (index, listen) in api.listen.iter().enumerate() {
        let key = format!("api.listen[{index}]");
        if listen.port() == 0 {
            notes.problem(&key, "port 0 is no port", "name the port that clients connect to, such as 9587");
        }
        if api.listen[..index].contains(listen) {
            notes.problem(&key, format!("{listen} is there twice"), "name each address once");
        }
        if config.metrics.listen.contains(listen) {
            let message = format!("{listen} is one of [metrics] already");
            notes.problem(&key, message, "choose another port: metrics there are served without TLS");
        }
    }
    for (key, path, what) in [
        ("api.certificate", &api.certificate, "a certificate of the gateway"),
        ("api.key", &api.key, "the private key of the certificate"),
        ("api.client_ca", &api.client_ca, "the certificate of the authority of its users"),
    ] {
        match path {
            None if !api.listen.is_empty() => {
                let remedy =
                    format!("add {} = \"/etc/sdwan/…\"; `sdwan api-cert --help` says how to make it", &key[4..]);
                notes.problem(key, format!("the API over TLS needs {what}"), remedy);
            }
            Some(path) if !path.is_absolute() => {
                let remedy = "write a path that begins with /: the daemon may run in any directory";
                notes.problem(key, format!("{:?} is not an absolute path", path.display().to_string()), remedy);
            }
            _ => {}
        }
    }
    for (index, user) in api.users.iter().enumerate() {
        if user.name.as_ref().is_some_and(String::is_empty) {
            notes.problem(&format!("api.user[{index}].name"), "an empty name is nobody's", "write the common name");
        }
        let same = |other: &ApiUser| (&other.name, &other.fingerprint) == (&user.name, &user.fingerprint);
        if api.users[..index].iter().any(same) {
            notes.problem(&format!("api.user[{index}]"), "this user is there twice", "give each one role");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Options, parse};

    fn shown(text: &str) -> String {
        parse(None, text, &Options::default()).unwrap_err().to_string()
    }

    #[test]
    fn the_highest_role_that_fits_counts() {
        let print = "ab".repeat(32);
        let text = format!(
            "[[api.user]]\nname = \"alice\"\nrole = \"viewer\"\n\
             [[api.user]]\nname = \"alice\"\nfingerprint = \"{print}\"\nrole = \"admin\"\n"
        );
        let api = parse(None, &text, &Options::default()).unwrap().api;
        let (this, other) = (print.parse().unwrap(), Fingerprint([1; 32]));
        assert_eq!(api.role("alice", &other), Some(Role::Viewer));
        assert_eq!(api.role("alice", &this), Some(Role::Admin));
        assert_eq!(api.role("bob", &this), None);
    }

    #[test]
    fn a_user_who_would_be_everybody_is_refused() {
        assert!(shown("[[api.user]]\nrole = \"admin\"\n").contains("neither a name nor a fingerprint"));
        assert!(shown("[[api.user]]\nname = \"\"\nrole = \"admin\"\n").contains("nobody's"));
        assert!(shown("[[api.user]]\nname = \"a\"\n").contains("no role"));
        let wrong = shown("[[api.user]]\nfingerprint = \"12\"\nrole = \"admin\"\n");
        assert!(wrong.contains("is no fingerprint") && !wrong.contains("neither"), "{wrong}");
    }

    #[test]
    fn listening_needs_certificates_and_says_how_to_make_them() {
        let error = shown("[api]\nlisten = [\"192.0.2.1:9587\", \"[2001:db8::1]:0\"]\nkey = \"key.pem\"\n");
        for part in ["api.certificate", "api.client_ca", "sdwan api-cert", "not an absolute path", "port 0 is no port"]
        {
            assert!(error.contains(part), "{part}: {error}");
        }
        let error = shown("[api]\nlisten = [\"127.0.0.1:1\"]\n[metrics]\nlisten = [\"127.0.0.1:1\"]\n");
        assert!(error.contains("one of [metrics] already"), "{error}");
    }
}
