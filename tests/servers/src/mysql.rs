//! `mariadbd`, alone on a port, run by the user `mysql` where we are root: it refuses root.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::certificate::make_certificate;
use crate::process::{NotStarted, Process};
use crate::{find, free_port, ready_for};

/// How long one question whether the server answers may take.
const PING_DEADLINE: Duration = Duration::from_millis(500);
/// How often another port is tried when somebody took the free one first.
const PORT_TRIES: u32 = 5;
/// Where Debian puts the server, which is not in everybody's `PATH`.
const DEBIAN: &str = "/usr/sbin";
/// What the driver logs in as, and the database it may do everything in.
const USER: &str = "althing";
/// A user of the machine that owns the server where we are root, and how large its files are at first: small ones are
/// copied soon.
const OWNER: &str = "mysql";
const LOG_FILE: &str = "--innodb-log-file-size=16M";

/// How a private MariaDB is configured.
#[derive(Clone, Debug, Default)]
pub struct MysqlOptions {
    /// The password of the user; else none is asked for.
    pub password: Option<String>,
    /// Further settings, by name and value, such as `("innodb-flush-log-at-trx-commit", "2")`.
    pub settings: Vec<(String, String)>,
    /// Speaks TLS too, with a certificate for 127.0.0.1 signed by itself, and lets the user in by that only.
    pub tls: bool,
}

/// A private MariaDB. Dropping it ends it.
#[derive(Debug)]
pub struct Mysql {
    process: Process,
    options: MysqlOptions,
    port: u16,
    folder: TempDir,
}

impl Mysql {
    /// Starts a server with an empty database and waits until it answers. `None` where MariaDB is missing and not
    /// required.
    pub async fn start(options: MysqlOptions) -> Option<Mysql> {
        if !ready_for("mariadbd") {
            return None;
        }
        let folder = tempfile::Builder::new().prefix("althing-mysql-").tempdir().expect("a folder");
        furnish(folder.path(), &options);
        let mut refusal = None;
        for _ in 0..PORT_TRIES {
            let port = free_port();
            match launch(&options, port, folder.path()).await {
                Ok(process) => return Some(Mysql { process, options, port, folder }),
                Err(not_started) => refusal = Some(not_started),
            }
        }
        panic!("mariadbd did not start:\n{}", refusal.map(|refusal| refusal.log).unwrap_or_default());
    }

    /// Returns the URL of a namespace on this server, with the password it asks for.
    pub fn url(&self, namespace: &str) -> String {
        let password =
            self.options.password.iter().map(|password| format!(":{password}")).collect::<String>();
        format!("mysql://{USER}{password}@127.0.0.1:{}/{USER}?namespace={namespace}", self.port)
    }

    /// Returns the port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the file with the certificate that the server shows.
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("server.crt")
    }

    /// Returns the file with the key of that certificate, by which a client can show it too.
    pub fn key(&self) -> PathBuf {
        self.folder.path().join("server.key")
    }

    /// Returns its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Kills it with SIGKILL and waits until it is gone.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Kills it if it runs, and starts it again on the same port with what it left on disk.
    pub async fn restart(&mut self) {
        self.kill();
        match launch(&self.options, self.port, self.folder.path()).await {
            Ok(process) => self.process = process,
            Err(refusal) => panic!("mariadbd did not start again:\n{}", refusal.log),
        }
    }

    /// Stops it with SIGSTOP, and waits until all its threads stand still: before that one of them may yet answer. It
    /// keeps its sockets and answers nothing.
    pub fn pause(&self) {
        self.process.pause();
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.process.resume();
    }

    /// Puts back what `keep` has kept, as an operator does who restores a backup. The server is restarted.
    pub async fn restore(&mut self, kept: &MysqlBackup) {
        self.kill();
        std::fs::remove_dir_all(self.folder.path().join("data")).expect("its folder can be removed");
        copy(&kept.folder.path().join("data"), self.folder.path());
        self.restart().await;
    }

    /// Keeps what it has on disk, to be put back later. The server is restarted.
    pub async fn keep(&mut self) -> MysqlBackup {
        self.kill();
        let folder = tempfile::Builder::new().prefix("althing-mysql-").tempdir().expect("a folder");
        copy(&self.folder.path().join("data"), folder.path());
        self.restart().await;
        MysqlBackup { folder }
    }

    /// Runs SQL as root and returns what it prints, bare.
    pub fn sql(&self, sql: &str) -> String {
        run(self.client().args(["-e", sql]))
    }

    /// Runs a text with statements and delimiters as root, as an operator does who pipes a file.
    pub fn script(&self, text: &str) -> String {
        run(&mut self.piped(text))
    }

    /// Runs a text with statements and delimiters as root, which must fail, and returns what is said of it.
    pub fn refusal(&self, text: &str) -> String {
        let done = self.piped(text).output().expect("mariadb runs");
        assert!(!done.status.success(), "{text:?} was done");
        String::from_utf8_lossy(&done.stderr).into_owned()
    }

    /// Begins a conversation: what it locks stays locked until the value is dropped. Returns once all of `sql` is done.
    pub fn talk(&self, sql: &str) -> MysqlTalk {
        let mut child = self
            .client()
            .arg("--unbuffered")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("mariadb starts");
        let mut input = child.stdin.take().expect("a pipe");
        writeln!(input, "{sql}\nselect 'done';").expect("mariadb reads");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let done = output.lines().any(|line| line.expect("mariadb writes text") == "done");
        assert!(done, "mariadb ended before {sql:?} was done");
        MysqlTalk { child, input }
    }

    fn piped(&self, text: &str) -> Command {
        let file = self.folder.path().join("script.sql");
        std::fs::write(&file, text).expect("a file");
        let mut command = self.client();
        command.stdin(std::fs::File::open(file).expect("it was just written"));
        command
    }

    fn client(&self) -> Command {
        let mut command = Command::new("mariadb");
        command.args(["--no-defaults", "-uroot", "-N", "-B", "-D", USER, "-S"]).arg(self.socket());
        command
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("sock")
    }
}

/// What a server had on disk.
#[derive(Debug)]
pub struct MysqlBackup {
    folder: TempDir,
}

/// A session of its own on the server. Dropping it ends it.
#[derive(Debug)]
pub struct MysqlTalk {
    child: Child,
    input: ChildStdin,
}

impl MysqlTalk {
    /// Says more, and does not wait until it is done.
    pub fn say(&mut self, sql: &str) {
        writeln!(self.input, "{sql}").expect("mariadb reads");
    }
}

impl Drop for MysqlTalk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tells whether all programs are there, and the user that the server runs as.
pub(crate) fn is_installed() -> bool {
    let as_user = || {
        let known = Command::new("id").arg(OWNER).output();
        find("setpriv").is_some() && known.is_ok_and(|known| known.status.success())
    };
    let programs = ["mariadb-install-db", "mariadb"];
    server().is_some() && programs.iter().all(|name| find(name).is_some()) && (!is_root() || as_user())
}

fn server() -> Option<PathBuf> {
    find("mariadbd").or_else(|| Some(Path::new(DEBIAN).join("mariadbd")).filter(|file| file.is_file()))
}

/// Puts into `folder` all that a server needs before it starts.
fn furnish(folder: &Path, options: &MysqlOptions) {
    fill(folder);
    if options.tls {
        make_certificate(folder);
    }
    let way = match &options.password {
        Some(password) => format!("identified by '{password}'"),
        None => "identified by ''".to_owned(),
    };
    let only = if options.tls { "require ssl" } else { "require none" };
    let first = format!(
        "create database if not exists {USER};\n\
         create user if not exists {USER}@'%' {way} {only};\n\
         grant all on {USER}.* to {USER}@'%';\n"
    );
    std::fs::write(folder.join("first.sql"), first).expect("a file");
    if is_root() {
        run(Command::new("chown").arg("-R").arg(OWNER).arg(folder));
    }
}

/// Puts into `folder` the data of an empty server, which take seconds to make: they are made once, kept where temporary
/// files are, and copied for all later tests of this user. Another version of the server, or of this file, keeps others.
fn fill(folder: &Path) {
    let server = server().expect("asked for before");
    let version = run(Command::new(server).args(["--no-defaults", "--version"]));
    let version = version.split_whitespace().nth(2).expect("a version").to_owned();
    let user = rustix::process::geteuid().as_raw();
    let kept = std::env::temp_dir().join(format!("althing-mysql-template-2-{version}-{user}"));
    // Fails where it is there.
    let _ = std::fs::DirBuilder::new().mode(0o700).create(&kept);
    if !is_private(&kept) {
        // Anybody may have made it, with anything in it.
        return install(folder);
    }
    let data = kept.join("data");
    if !data.is_dir() {
        let made = tempfile::Builder::new().prefix("althing-mysql-").tempdir().expect("a folder");
        install(made.path());
        // Somebody else may have been faster; then this one goes with its folder.
        let _ = std::fs::rename(made.path().join("data"), &data);
    }
    copy(&data, folder);
}

/// Tells whether a folder is ours and nobody else may write to it, or look into it.
fn is_private(folder: &Path) -> bool {
    std::fs::symlink_metadata(folder).is_ok_and(|found| {
        found.is_dir() && found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o777 == 0o700
    })
}

/// Makes the data of an empty server in `folder`.
fn install(folder: &Path) {
    if is_root() {
        run(Command::new("chown").arg(OWNER).arg(folder));
    }
    let mut command = as_owner(&find("mariadb-install-db").expect("asked for before"), folder);
    command.arg("--no-defaults").arg(format!("--datadir={}", folder.join("data").display()));
    command.args(["--skip-test-db", LOG_FILE, "--auth-root-authentication-method=normal"]);
    run(&mut command);
}

fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(from).arg(to));
}

async fn launch(options: &MysqlOptions, port: u16, folder: &Path) -> Result<Process, NotStarted> {
    let mut command = as_owner(&server().expect("asked for before"), folder);
    command.arg("--no-defaults");
    let mut set = |name: &str, value: &str| {
        command.arg(format!("--{name}={value}"));
    };
    let place = |name: &str| folder.join(name).display().to_string();
    set("datadir", &place("data"));
    set("socket", &place("sock"));
    set("pid-file", &place("pid"));
    set("init-file", &place("first.sql"));
    set("bind-address", "127.0.0.1");
    set("port", &port.to_string());
    set("skip-name-resolve", "1");
    set("innodb-buffer-pool-size", "32M");
    set("innodb-log-file-size", "16M");
    set("performance-schema", "0");
    set("max-connections", "300");
    if options.tls {
        set("ssl-cert", &place("server.crt"));
        set("ssl-key", &place("server.key"));
        // Its own certificate is the only one by which anybody may show who he is.
        set("ssl-ca", &place("server.crt"));
    }
    for (name, value) in &options.settings {
        set(name, value);
    }
    let answers = || {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let greet = |mut stream: TcpStream| {
            stream.set_read_timeout(Some(PING_DEADLINE))?;
            stream.read_exact(&mut [0; 5])
        };
        TcpStream::connect_timeout(&address, PING_DEADLINE).and_then(greet).is_ok()
    };
    Process::start(&mut command, &folder.join("server.log"), answers).await
}

/// Makes a command that runs in `folder`, as the user `mysql` where we are root.
fn as_owner(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(if is_root() { Path::new("setpriv") } else { program });
    if is_root() {
        command.args(["--reuid", OWNER, "--regid", OWNER, "--clear-groups", "--"]).arg(program);
    }
    command.current_dir(folder).env("LC_ALL", "C");
    command
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn run(command: &mut Command) -> String {
    let done = command.output().expect("the program runs");
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn trusts_only_a_folder_that_is_its_own() {
        let above = tempfile::tempdir().unwrap();
        let (folder, other) = (above.path().join("folder"), above.path().join("other"));
        assert!(!is_private(&folder));
        std::fs::create_dir(&folder).unwrap();
        set_permissions(&folder, Permissions::from_mode(0o700)).unwrap();
        symlink(&folder, &other).unwrap();
        assert!(is_private(&folder) && !is_private(&other));
        set_permissions(&folder, Permissions::from_mode(0o770)).unwrap();
        assert!(!is_private(&folder));
        if is_root() {
            set_permissions(&folder, Permissions::from_mode(0o700)).unwrap();
            std::os::unix::fs::chown(&folder, Some(65_534), None).unwrap();
            assert!(!is_private(&folder), "somebody else's");
        }
    }
}
