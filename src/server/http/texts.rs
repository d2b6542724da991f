//! What problems say to people, in Chinese and in English: titles by their stable name, details by their English text.
//!
//! The node's errors are written in English where they arise, the core's among them, which knows no languages. What is
//! met every day stands here in Chinese as well; a detail that does not is said in English, below a Chinese title.

use std::borrow::Cow;

use super::language::Language;

/// What a problem is called, in Chinese and in English.
const TITLES: &[(&str, &str, &str)] = &[
    ("handle_not_found", "标识不存在", "No such handle"),
    (
        "referral",
        "该前缀由其他服务解析",
        "Another service knows this prefix",
    ),
    ("handle_exists", "标识已存在", "The handle exists already"),
    ("invalid_handle", "标识格式不正确", "Not a handle"),
    ("values_not_found", "没有所请求的值", "No such value"),
    (
        "value_exists",
        "该索引的值已存在",
        "The value exists already",
    ),
    ("invalid_value", "值不正确", "The value is not valid"),
    (
        "not_responsible",
        "本节点不负责该前缀",
        "This node does not answer for the prefix",
    ),
    (
        "authentication_needed",
        "需要身份认证",
        "Authentication is needed",
    ),
    (
        "not_an_administrator",
        "不是该标识的管理员",
        "Not an administrator of this handle",
    ),
    (
        "insufficient_permissions",
        "权限不足",
        "The rights do not suffice",
    ),
    (
        "authentication_failed",
        "身份认证失败",
        "Authentication failed",
    ),
    (
        "plain_http",
        "明文 HTTP 不接受凭据，请使用 HTTPS",
        "Credentials are not taken over plain HTTP",
    ),
    (
        "token_not_valid",
        "令牌无效或已失效",
        "The token is not valid",
    ),
    (
        "session_not_valid",
        "会话无效或已结束",
        "There is no such session",
    ),
    (
        "token_not_allowed",
        "令牌不允许此操作",
        "The token does not allow this",
    ),
    (
        "quota_used_up",
        "令牌当日配额已用完",
        "The token's quota of today is used up",
    ),
    ("too_many_requests", "请求过于频繁", "Too many requests"),
    ("busy", "服务繁忙，请稍后重试", "Busy: please try again"),
    ("invalid_request", "请求不正确", "The request is not valid"),
    ("not_supported", "不支持该操作", "Not supported"),
    (
        "method_not_allowed",
        "不支持该方法",
        "The method is not allowed here",
    ),
    ("body_too_large", "请求体过大", "The body is too large"),
    ("timeout", "请求超时", "The request did not arrive in time"),
    (
        "unsupported_media_type",
        "不支持该媒体类型",
        "The media type is not supported",
    ),
    (
        "no_such_page",
        "没有此路径",
        "There is nothing at this path",
    ),
    (
        "idempotency_key_reused",
        "幂等键已用于其他内容",
        "The idempotency key was used for another content",
    ),
    (
        "idempotency_in_progress",
        "相同请求正在处理",
        "The same request is being carried out",
    ),
    ("no_such_job", "没有此任务", "There is no such job"),
    ("job_ended", "任务已结束", "The job has ended"),
    ("job_not_ended", "任务尚未结束", "The job has not ended"),
    (
        "too_many_jobs",
        "任务数已达上限",
        "There are as many jobs as may be",
    ),
    (
        "disk_quota_used_up",
        "令牌的磁盘配额已用完",
        "The token's share of the disk is used up",
    ),
    (
        "range_not_satisfiable",
        "请求的范围超出结果",
        "The range lies behind the results",
    ),
    (
        "not_primary",
        "本节点不接受修改，请到主节点修改",
        "Changes are made at another node",
    ),
    (
        "journal_pruned",
        "日志已不含所需部分，请从快照开始",
        "The journal does not reach back that far",
    ),
    ("journal_differs", "日志与备机不一致", "The journals differ"),
    ("other_epoch", "纪元不同", "The epochs differ"),
    ("denied", "拒绝访问", "Denied"),
    ("server_error", "服务器内部错误", "A failure of this node"),
];

/// The title of a problem.
pub(super) fn title(name: &str, language: Language) -> &'static str {
    let found = TITLES.iter().find(|(known, ..)| *known == name);
    found.map_or("", |(_, chinese, english)| match language {
        Language::Chinese => chinese,
        Language::English => english,
    })
}

/// What a problem says in detail: the English text, in which `{}` stands for what differs, and the Chinese one.
const DETAILS: &[(&str, &str)] = &[
    // What a handle, a path or a query is to be.
    ("the path names no handle", "路径中没有标识"),
    (
        "the handle in the path is not UTF-8",
        "路径中的标识不是 UTF-8 编码",
    ),
    (
        "the handle is longer than 2048 octets",
        "标识超过 2048 字节",
    ),
    ("must be true or false", "必须是 true 或 false"),
    (
        "must be a number from 1 to 2147483647",
        "必须是 1 到 2147483647 之间的整数",
    ),
    ("must be a number up to {}", "必须是不大于 {} 的整数"),
    ("must be the number of a line", "必须是行号"),
    (
        "must be the name of a function in JavaScript",
        "必须是 JavaScript 函数名",
    ),
    (
        "any site could read the answer: not with credentials",
        "任何网站都能读取该应答，因此不能与凭据同时使用",
    ),
    // Jobs.
    ("must be bulk or resolve", "必须是 bulk 或 resolve"),
    ("is for registrations only", "仅用于注册任务"),
    ("must be a number from 1 to {}", "必须是 1 到 {} 之间的整数"),
    (
        "as many batches and uploads as may be run already; try again when one has ended",
        "批量请求与上传数已达上限；请在其中一个结束后重试",
    ),
    ("nothing was sent for too long", "太久没有收到数据"),
    (
        "the input of a job that is atomic may have 32 MiB",
        "原子任务的输入最多 32 MiB",
    ),
    (
        "the token's jobs would take more of the disk than they may ([jobs] disk_max): delete some that have ended",
        "该令牌的任务将超出其磁盘配额（[jobs] disk_max）：请删除已结束的任务",
    ),
    ("the node's disk is nearly full", "节点磁盘空间将满"),
    (
        "the input is longer than is accepted here ([jobs] input_max)",
        "输入超过此处接受的长度（[jobs] input_max）",
    ),
    (
        "the token has {} jobs ([jobs] jobs_per_token): delete some that have ended",
        "该令牌已有 {} 个任务（[jobs] jobs_per_token）：请删除已结束的任务",
    ),
    ("cancel it first", "请先取消该任务"),
    ("the jobs are not available now", "任务暂时不可用"),
    ("the node's disk takes nothing now", "节点磁盘暂时无法写入"),
    ("there are {} octets of results now", "目前结果共 {} 字节"),
    ("the results cannot be read now", "暂时无法读取结果"),
    ("too many, or too long", "数量过多或过长"),
    (
        "is missing; it is a prefix such as 88.118",
        "缺少该参数；应为前缀，例如 88.118",
    ),
    (
        "pages this far are reached by after=, the last handle of the page before",
        "更远的页须用 after= 给出上一页的最后一个标识",
    ),
    (
        "this node asks no other; a foreign prefix has code 301 for its line",
        "本节点不询问其他节点；不属于本节点的前缀，该行的代码为 301",
    ),
    // What is where.
    ("this prefix is not homed here", "该前缀不归属本节点"),
    ("That prefix doesn't live here", "该前缀不归属本节点"),
    (
        "the values of its nearest ancestor say which service",
        "其最近上级前缀的值指明由哪个服务解析",
    ),
    ("the stored record is damaged", "存储的记录已损坏"),
    // Who asks, and what that may do.
    (
        "credentials are taken over HTTPS only",
        "凭据只能通过 HTTPS 提交",
    ),
    (
        "the Authorization header is not readable",
        "无法解析 Authorization 头",
    ),
    (
        "the scheme must be Basic, Bearer or Handle",
        "认证方式必须是 Basic、Bearer 或 Handle",
    ),
    ("not Base64", "不是 Base64 编码"),
    (
        "no colon between user and password",
        "用户名与密码之间缺少冒号",
    ),
    ("the user is not UTF-8", "用户名不是 UTF-8 编码"),
    (
        "the user must be index%3Ahandle, percent-encoded, such as 300%3A0.NA%2F88.118",
        "用户名必须是经百分号编码的 index%3Ahandle，例如 300%3A0.NA%2F88.118",
    ),
    (
        "this needs an API token: Authorization: Bearer jx_…",
        "此操作需要 API 令牌：Authorization: Bearer jx_…",
    ),
    ("no such token, or it has ended", "令牌不存在或已失效"),
    ("the token is for other prefixes", "该令牌用于其他前缀"),
    ("the token has not the right {}", "该令牌没有 {} 权限"),
    ("the tokens cannot be read now", "暂时无法读取令牌"),
    ("the parameters are not readable", "无法解析参数"),
    (
        "either sessionId or clientCert must be there",
        "必须给出 sessionId 或 clientCert",
    ),
    ("no such session, or it has ended", "会话不存在或已结束"),
    (
        "the session is named by Authorization: Handle sessionId=…",
        "须以 Authorization: Handle sessionId=… 指明会话",
    ),
    ("id must be index:handle", "id 必须是 index:handle"),
    ("type or alg is not known", "type 或 alg 未知"),
    ("cnonce is too long", "cnonce 过长"),
    ("{} is missing", "缺少 {}"),
    ("{} is not Base64", "{} 不是 Base64 编码"),
    (
        "the client showed no certificate; [http] client_certificates must be on",
        "客户端未出示证书；须启用 [http] client_certificates",
    ),
    (
        "the certificate's subject must have index:handle as UID or CN",
        "证书主体的 UID 或 CN 必须是 index:handle",
    ),
    (
        "too many wrong answers: please wait a moment",
        "认证失败次数过多，请稍候再试",
    ),
    // What a body is to be.
    ("the body is not JSON: {}", "请求体不是 JSON：{}"),
    (
        "the body is longer than is accepted here",
        "请求体超过此处允许的长度",
    ),
    ("the body ended early", "请求体不完整"),
    (
        "the body did not arrive in time",
        "请求体未在规定时间内到达",
    ),
    (
        "the body is no message of the Handle protocol",
        "请求体不是 Handle 协议的报文",
    ),
    ("must be an array", "必须是数组"),
    (
        "must be an array of values or an object",
        "必须是值的数组，或一个对象",
    ),
    ("there is no value", "没有任何值"),
    (
        "there are more values than a handle may have",
        "值的数量超过一个标识的上限",
    ),
    (
        "must be a string, or an object with format and value",
        "必须是字符串，或含有 format 和 value 的对象",
    ),
    (
        "{} is not one of string, base64, hex, admin, vlist, site, key",
        "{} 不是 string、base64、hex、admin、vlist、site、key 之一",
    ),
    (
        "must be seconds, or a time such as \"2030-01-31T00:00:00Z\"",
        "必须是秒数，或如 \"2030-01-31T00:00:00Z\" 的时间",
    ),
    (
        "must be four of 0 and 1: admin read, admin write, public read, public write",
        "必须是四位 0 或 1：管理员读、管理员写、公开读、公开写",
    ),
    ("is empty", "不能为空"),
    (
        "various means the indexes of a body",
        "various 指请求体中的索引，而此处没有请求体",
    ),
    (
        "the body has a value {}, which index= does not name",
        "请求体中有索引为 {} 的值，而 index= 未列出",
    ),
    (
        "index= names {}, and the body has no such value",
        "index= 列出了 {}，而请求体中没有该值",
    ),
    (
        "Content-Encoding must be one of gzip and zstd, and only one",
        "Content-Encoding 只能是 gzip 或 zstd 之一",
    ),
    (
        "this charset is not known; gb18030 and utf-8 are",
        "不支持该字符集；支持 gb18030 和 utf-8",
    ),
    // What a change meets.
    ("Value indexes must be positive", "值的索引必须为正数"),
    ("Index conflict for {}", "索引 {} 冲突"),
    ("the value may not be written", "该值不可修改"),
    ("the record would be too large", "记录将超出大小上限"),
    (
        "must be 1 to 255 visible ASCII characters",
        "必须是 1 到 255 个可见的 ASCII 字符",
    ),
    (
        "this key came before with another content",
        "该键此前已用于其他内容",
    ),
    (
        "the request that came first with this key is still being carried out",
        "使用该键的首个请求仍在处理",
    ),
    // Not now.
    (
        "too many requests come from this network",
        "来自该网络的请求过多",
    ),
    ("too many lists", "列表请求过多"),
    (
        "as many batches as may be run already; try again when one has ended",
        "同时进行的批量请求已达上限，请待其中一个结束后再试",
    ),
    (
        "the requests that the token has for today are used up",
        "该令牌今日的请求次数已用完",
    ),
    ("too many sessions are open", "打开的会话过多"),
    ("too many requests wait", "等待处理的请求过多"),
    ("too many changes wait", "等待处理的修改过多"),
    (
        "the handle is changed by others all the time",
        "该标识正被他人不断修改",
    ),
    ("the records are not available now", "暂时无法读取记录"),
    ("this node takes no changes now", "本节点暂不接受修改"),
    (
        "this node is a standby: changes are made at {}",
        "本节点是备机，请到 {} 修改",
    ),
    (
        "another node took the place of this one: changes are made at {}",
        "本节点已被取代，请到 {} 修改",
    ),
    (
        "another node took the place of this one: changes are made there",
        "本节点已被取代，请到新的主节点修改",
    ),
    (
        "a token that copies the node must be for all prefixes",
        "复制节点的令牌不能限定前缀",
    ),
    (
        "the journal of this node is of epoch {}",
        "本节点日志的纪元是 {}",
    ),
    (
        "the journal of this node does not continue what the standby has",
        "本节点的日志与备机已有内容不相接",
    ),
    (
        "this node has epoch {} itself: it is the one that goes on",
        "本节点的纪元是 {}，应由本节点继续服务",
    ),
    (
        "the journal no longer reaches back that far: begin with a snapshot",
        "日志已不含所需部分，请从快照开始",
    ),
    (
        "as many copies as may be are being taken",
        "同时进行的复制已达上限",
    ),
    ("the disk is full", "磁盘已满"),
    ("still loading", "正在加载"),
    (
        "the data of this node cannot be read; its operator finds why at /ready",
        "本节点的数据无法读取；管理员可在 /ready 查看原因",
    ),
    ("please try again", "请重试"),
];

/// The detail of a problem in a language, as far as it is known there.
pub(super) fn detail(english: &str, language: Language) -> Cow<'_, str> {
    let chinese = match language {
        Language::English => None,
        Language::Chinese => DETAILS.iter().find_map(|row| translated(english, row)),
    };
    chinese.unwrap_or(Cow::Borrowed(english))
}

/// The Chinese text of a row, if this is its English one.
fn translated(english: &str, (known, chinese): &(&str, &'static str)) -> Option<Cow<'static, str>> {
    let Some((before, after)) = known.split_once("{}") else {
        return (*known == english).then_some(Cow::Borrowed(*chinese));
    };
    let differs = english.strip_prefix(before)?.strip_suffix(after)?;
    Some(chinese.replacen("{}", differs, 1).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;
    use std::path::Path;

    /// All of the program's text, as far as it stands in quotes: continued lines joined, and what differs as `{}`.
    fn program(directory: &Path, out: &mut String) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                program(&path, out);
            } else if path.extension().is_some_and(|kind| kind == "rs") && !path.ends_with(file!())
            {
                let text = std::fs::read_to_string(&path).unwrap();
                for line in text.lines() {
                    match line.trim_end().strip_suffix('\\') {
                        Some(begun) => out.push_str(begun.trim_start()),
                        None => writeln!(out, "{}", line.trim_start()).unwrap(),
                    }
                }
            }
        }
    }

    /// Text with every `{name}` as `{}`.
    fn without_names(text: &str) -> String {
        let mut out = String::new();
        let mut parts = text.split('{');
        out.push_str(parts.next().unwrap_or_default());
        for part in parts {
            match part.split_once('}') {
                Some((name, rest)) if !name.contains(['"', '\n', ' ']) => {
                    let _ = write!(out, "{{}}{rest}");
                }
                _ => {
                    let _ = write!(out, "{{{part}");
                }
            }
        }
        out
    }

    /// Goal: no row is left behind when the English text of an error changes.
    #[test]
    fn every_detail_is_said_somewhere() {
        let mut text = String::new();
        program(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
            &mut text,
        );
        let text = without_names(&text);
        for (english, _) in DETAILS {
            let quoted = format!("\"{}\"", english.replace('"', "\\\""));
            assert!(text.contains(&quoted), "nobody says {quoted}");
        }
    }

    /// Goal: what differs is kept, and what is not known stays as it is.
    #[test]
    fn details() {
        let said = |text| detail(text, Language::Chinese).into_owned();
        assert_eq!(
            said("the token has not the right admin"),
            "该令牌没有 admin 权限"
        );
        assert_eq!(said("too many lists"), "列表请求过多");
        assert_eq!(said("something new"), "something new");
        assert_eq!(
            detail("too many lists", Language::English),
            "too many lists"
        );
    }
}
