//! TLS to backends by rustls, with the one provider of the tree. No process-wide default is set or used, but for a client
//! that knows no other way ([`provide`]).
//!
//! All URLs take the same options: `tls-ca`, a file of authorities to trust instead of the machine's; `tls-cert` and
//! `tls-key`, the files by which the host shows who it is.

use std::sync::Arc;

use althing_core::{Location, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

const OPTIONS: [&str; 3] = ["tls-ca", "tls-cert", "tls-key"];

/// Returns an option that `location` has and that makes sense with TLS only.
pub fn implied_by(location: &Location) -> Option<&'static str> {
    OPTIONS.into_iter().find(|name| location.option(name).is_some())
}

/// Tells whether `location` asks for TLS: by `tls=true`, or by an option that makes sense with it only. Fails with `Invalid`
/// where it says anything else, or contradicts itself.
pub fn wanted(location: &Location) -> Result<bool> {
    let implied = implied_by(location).is_some();
    match location.option("tls") {
        None => Ok(implied),
        Some("true") => Ok(true),
        Some("false") if !implied => Ok(false),
        Some("false") => Err(location.wrong("tls=false with a certificate").advise("Leave out tls=false")),
        Some(other) => Err(location.wrong(format!("tls is {other:?}")).advise("Write tls=true or tls=false")),
    }
}

/// Reads the certificates that `location` names; without `tls-ca`, the machine's. Fails with `Invalid`, and names the file,
/// where one cannot be read or used.
pub fn config(location: &Location) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| location.wrong("TLS cannot be set up").because(error))?
        .with_root_certificates(roots(location)?);
    let config = match (location.option("tls-cert"), location.option("tls-key")) {
        (None, None) => builder.with_no_client_auth(),
        (Some(certificate), Some(key)) => {
            let key = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| location.wrong(format!("tls-key {key} cannot be read")).because(error))?;
            builder
                .with_client_auth_cert(certificates(location, "tls-cert", certificate)?, key)
                .map_err(|error| location.wrong("tls-cert and tls-key do not fit").because(error))?
        }
        _ => return Err(location.wrong("tls-cert and tls-key need each other")),
    };
    Ok(Arc::new(config))
}

/// Reads the name under which the server `host` must show a certificate. Fails with `Invalid` where it can have none.
pub fn server_name(location: &Location, host: &str) -> Result<ServerName<'static>> {
    ServerName::try_from(host.to_owned()).map_err(|error| {
        location.wrong(format!("{host:?} cannot be the name of a TLS server")).because(error)
    })
}

/// Reads the authorities that `location` names; without `tls-ca`, the machine's. For a client that makes its configuration
/// itself. Fails with `Invalid`, and names the file, where one cannot be read or used.
pub fn authorities(location: &Location) -> Result<Vec<CertificateDer<'static>>> {
    let mut roots = RootCertStore::empty();
    let authorities = match location.option("tls-ca") {
        Some(file) => {
            let named = certificates(location, "tls-ca", file)?;
            let unusable = |error| location.wrong(format!("tls-ca {file} is not usable")).because(error);
            named.iter().try_for_each(|one| roots.add(one.clone())).map_err(unusable)?;
            named
        }
        // A machine may have some that nobody can read.
        None => {
            let found = rustls_native_certs::load_native_certs().certs.into_iter();
            found.filter(|one| roots.add(one.clone()).is_ok()).collect()
        }
    };
    if authorities.is_empty() {
        return Err(location.wrong("no certificate authority to trust").advise("Name a file with tls-ca"));
    }
    Ok(authorities)
}

/// Makes our provider that of the process, if it has none yet: for a client that asks the process for it.
pub fn provide() {
    // Whoever was first is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

fn roots(location: &Location) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(authorities(location)?);
    Ok(roots)
}

fn certificates(location: &Location, option: &str, file: &str) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| location.wrong(format!("{option} {file} cannot be read")).because(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_refused(url: &str, said: &str) {
        let location: Location = url.parse().unwrap();
        let error = config(&location).unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    }

    #[test]
    fn says_which_file_is_wrong() {
        check_refused("x://h/?tls-ca=/nowhere.pem", "tls-ca /nowhere.pem cannot be read");
        check_refused("x://h/?tls-ca=/dev/null", "no certificate authority to trust");
        check_refused("x://h/?tls-cert=/a.pem", "tls-cert and tls-key need each other");
        check_refused("x://h/?tls-cert=/a.pem&tls-key=/dev/null", "tls-key /dev/null cannot be read");
    }

    #[test]
    fn wants_what_is_said_or_implied() {
        let wanted = |options: &str| wanted(&format!("x://h/?{options}").parse().unwrap());
        assert!(!wanted("").unwrap() && !wanted("tls=false").unwrap());
        assert!(wanted("tls=true").unwrap() && wanted("tls-ca=a.pem").unwrap());
        assert!(wanted("tls=on").unwrap_err().to_string().contains("Write tls=true or tls=false"));
        assert!(wanted("tls=false&tls-key=a").unwrap_err().to_string().contains("Leave out tls=false"));
    }

    #[test]
    fn refuses_what_no_server_can_be_called() {
        let location: Location = "x://h/".parse().unwrap();
        assert!(server_name(&location, "a.example").is_ok() && server_name(&location, "::1").is_ok());
        assert!(server_name(&location, "no name").unwrap_err().to_string().contains("\"no name\""));
    }
}
