//! `jiexi init`: everything that a new node needs.

use std::{
    fs, io,
    net::IpAddr,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};

use super::{
    Failed, output,
    place::{self, FILE_NAME},
};
use crate::{
    clock,
    config::{self, Case, Config, size},
    identity::{self, IdentityError, KeyPair},
    json::line,
    maintenance, owner, records,
    store::{CommitError, Store},
};

/// The file of the administrator's private key.
const ADMIN_KEY: &str = "admin.key";

/// Set up a new node: configuration, keys, site record, store, prefix
///
/// Writes into an empty directory: jiexi.toml, node.key (the node's RSA key), site.json (where the node is reached),
/// admin.key (the RSA key of the prefix's administrator) and the store, in which the prefix is homed and has its record
/// 0.NA/<prefix>. Keep admin.key somewhere else: it is not needed by the node.
#[derive(Debug, Args)]
pub(super) struct Init {
    /// The prefix that this node is to answer for, such as 88.118
    #[arg(long)]
    prefix: String,
    /// Public addresses of the node: one, or an IPv4 and an IPv6 address with a comma between them
    #[arg(long, value_delimiter = ',', required = true, value_name = "IP[,IP6]")]
    address: Vec<IpAddr>,
    /// The directory to set up; it must not exist or be empty
    #[arg(long, short, default_value = "./data", value_name = "DIR")]
    data: PathBuf,
    /// Port of the Handle protocol, UDP and TCP
    #[arg(long, default_value_t = 2641)]
    port: u16,
    /// What ignores the case of ASCII letters: the whole handle, or only its prefix. Cannot be changed later
    #[arg(long, value_enum, default_value_t)]
    case: Case,
}

impl Init {
    pub(super) fn run(self) -> Result<(), Failed> {
        let prefix = line::parse_prefix(&self.prefix)
            .map_err(|error| Failed::usage(format_args!("--prefix: {}", error.message)))?;
        if self.prefix.chars().any(char::is_whitespace) {
            return Err(Failed::usage(format_args!(
                "--prefix: {:?} has blanks in it; a prefix is one such as 88.118",
                self.prefix
            )));
        }
        check_addresses(&self.address)?;
        if self.port == 0 {
            return Err(Failed::usage(
                "--port: clients cannot reach port 0; give the port that the node is to listen on, such as 2641",
            ));
        }
        owner::is_about(&self.data);
        if let Some(refused) = owner::refuse_root(&self.data, std::env::args_os()) {
            return Err(Failed::report(refused));
        }
        prepare(&self.data)
            .map_err(|error| Failed::report(format_args!("{}: {error}", self.data.display())))?;
        if let Err(message) = self.fill(&prefix) {
            // The directory was empty, so everything in it is ours and half done.
            drop(clear(&self.data));
            return Err(Failed::report(message));
        }
        output::print(&self.next_steps(&line::bare_prefix(&prefix)))
    }

    /// Writes everything; the configuration last, since it makes the directory a node.
    fn fill(&self, prefix_handle: &[u8]) -> Result<(), String> {
        let identity = |error: IdentityError| error.to_string();
        let mut config = Config::for_data(&self.data);
        config.store.case = self.case;
        // How much of a disk must stay free is the machine's business, and may be said before there is a file.
        let said =
            place::from_environment().map_err(|problems| place::listed(&problems, "\njiexi: "))?;
        config.store.disk_free_min = said.store.disk_free_min;
        config.store.disk_free_percent = said.store.disk_free_percent;
        let (node, admin) = (
            KeyPair::generate().map_err(identity)?,
            KeyPair::generate().map_err(identity)?,
        );
        let description = format!("jiexi {}", line::bare_prefix(prefix_handle));
        let sites: Vec<_> = self
            .address
            .iter()
            .map(|address| {
                identity::site_record(*address, self.port, node.public_octets(), &description)
            })
            .collect();
        let Some(site) = sites.first() else {
            return Err("no address".into());
        };
        identity::write_file(&config.node_key(), 0o600, &node.file()).map_err(identity)?;
        identity::write_file(&self.data.join(ADMIN_KEY), 0o600, &admin.file()).map_err(identity)?;
        let site_text = identity::site_text(site).map_err(identity)?;
        identity::write_file(&config.site_file(), 0o644, site_text.as_bytes()).map_err(identity)?;

        let store_config = config.store_config();
        let case = store_config.case;
        Store::create(&store_config).map_err(|error| error.to_string())?;
        let store = maintenance::open(store_config)?;
        let values = identity::prefix_values(
            prefix_handle,
            &sites,
            admin.public_octets(),
            clock::unix_seconds(),
        );
        let record = records::put_values(prefix_handle, &values, case);
        let batch = records::batch(vec![record, records::home_prefix(prefix_handle, case)]);
        store.commit(batch).map_err(|error| match error {
            CommitError::DiskFull => disk_is_full(&config, &store),
            error => format!("the prefix record: {error}"),
        })?;
        store.close().map_err(|error| error.to_string())?;

        let text = configuration(
            &self.address,
            self.port,
            self.case,
            &String::from_utf8_lossy(prefix_handle),
        );
        identity::write_file(&self.data.join(FILE_NAME), 0o640, text.as_bytes())
            .map_err(identity)?;
        sync(&self.data).map_err(|error| format!("{}: {error}", self.data.display()))
    }

    /// What to do now.
    fn next_steps(&self, prefix: &str) -> String {
        let data = self.data.display();
        let jiexi = output::program();
        let port = self.port;
        let server = if port == 2641 {
            String::new()
        } else {
            format!(" --server 127.0.0.1:{port}")
        };
        format!(
            "The node for prefix {prefix} is set up in {data}.

Next steps:
  1. Look at {data}/{FILE_NAME}; check it with: {jiexi} config check {data}/{FILE_NAME}
  2. Move {data}/{ADMIN_KEY} to a safe place: it administers the prefix, the node does not need it.
  3. Start the node:    {jiexi} serve --config {data}/{FILE_NAME}
  4. Ask it:            {jiexi} resolve 0.NA/{prefix}{server}
  5. Bring in records:  {jiexi} import records.ndjson --config {data}/{FILE_NAME}
  6. Give {data}/site.json to the operator of the prefix above, and let port {port} (UDP and TCP) through the firewall.

下一步：
  1. 查看并检查配置：{data}/{FILE_NAME}（jiexi config check）
  2. 将 {data}/{ADMIN_KEY} 移至安全的地方：它是前缀 {prefix} 的管理私钥，节点运行不需要它。
  3. 启动节点：{jiexi} serve --config {data}/{FILE_NAME}
  4. 解析测试：{jiexi} resolve 0.NA/{prefix}{server}
  5. 导入标识：{jiexi} import records.ndjson --config {data}/{FILE_NAME}
  6. 将 {data}/site.json 提交给上级节点，并在防火墙上放行端口 {port}（UDP 与 TCP）。
"
        )
    }
}

/// Said when the store takes no writes because of the space that is to stay free.
fn disk_is_full(config: &Config, store: &Store) -> String {
    let limits = &config.store;
    let free = size::text(store.stats().free_bytes >> 20 << 20);
    format!(
        "{}: {free} are free on this disk, and [store] disk_free_min = {} and disk_free_percent = {} keep the store from \
         writing; free some space, choose another disk with --data, or allow less by JIEXI_STORE_DISK_FREE_MIN and \
         JIEXI_STORE_DISK_FREE_PERCENT",
        config.node.data.display(),
        size::text(limits.disk_free_min),
        limits.disk_free_percent
    )
}

/// One address, or one of each family.
fn check_addresses(addresses: &[IpAddr]) -> Result<(), Failed> {
    let families = match addresses {
        [_] => true,
        [first, second] => first.is_ipv4() != second.is_ipv4(),
        _ => false,
    };
    if !families {
        return Err(Failed::usage(
            "--address: give one address, or one IPv4 and one IPv6 address",
        ));
    }
    let unreachable = |address: &&IpAddr| match address {
        IpAddr::V4(v4) => v4.is_broadcast(),
        // Of which link, a site record cannot say.
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let found = addresses
        .iter()
        .find(|address| address.is_unspecified() || address.is_multicast() || unreachable(address));
    if let Some(address) = found {
        return Err(Failed::usage(format_args!(
            "--address: clients cannot reach {address}; give the public address"
        )));
    }
    Ok(())
}

/// Makes the directory, or sees that it is empty.
fn prepare(data: &Path) -> io::Result<()> {
    if data.is_file() {
        return Err(io::Error::other(
            "is a file; name a directory with --data that does not exist or is empty",
        ));
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data)?;
    match entries(data)?.next() {
        None => Ok(()),
        Some(found) => Err(io::Error::other(format!(
            "is not empty (there is {}); choose another directory with --data, or clear this one",
            found.file_name().to_string_lossy()
        ))),
    }
}

/// What is in a directory, but for what every new file system has.
fn entries(data: &Path) -> io::Result<impl Iterator<Item = fs::DirEntry>> {
    Ok(fs::read_dir(data)?
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name() != "lost+found"))
}

/// Removes what is in a directory.
fn clear(data: &Path) -> io::Result<()> {
    for entry in entries(data)? {
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Makes the names in a directory durable.
fn sync(directory: &Path) -> io::Result<()> {
    fs::File::open(directory)?.sync_all()
}

/// The template with the values of this node.
fn configuration(addresses: &[IpAddr], port: u16, case: Case, prefix_handle: &str) -> String {
    let list: Vec<String> = addresses
        .iter()
        .map(|address| format!("\"{address}\""))
        .collect();
    let case = case
        .to_possible_value()
        .map_or_else(String::new, |value| value.get_name().to_owned());
    config::TEMPLATE
        .replace("\ncase = \"whole\"\n", &format!("\ncase = \"{case}\"\n"))
        .replace("\ndata = \"./data\"\n", "\ndata = \".\"\n")
        .replace(
            "\nadmins = []\n",
            &format!("\nadmins = [\"{}:{prefix_handle}\"]\n", identity::KEY_INDEX),
        )
        .replace(
            "\naddresses = []\n",
            &format!("\naddresses = [{}]\n", list.join(", ")),
        )
        .replace("\nport = 2641\n", &format!("\nport = {port}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_written_configuration_has_the_values_of_the_node() {
        let addresses = [
            "192.0.2.10".parse().expect("address"),
            "2001:db8::1".parse().expect("address"),
        ];
        let text = configuration(&addresses, 12641, Case::Prefix, "0.NA/88.118");
        let config =
            config::load_text(&text, Path::new("jiexi.toml"), std::iter::empty()).expect("loads");
        assert_eq!(config.node.data, Path::new("."));
        assert_eq!(config.node.addresses, addresses);
        assert_eq!(config.handle.port, 12641);
        assert_eq!(config.store.case, Case::Prefix);
    }
}
