//! What problems say to people, in Chinese and in English: titles by their stable name, details by their English text.
//!
//! The node's errors are written in English where they arise, the core's among them, which knows no languages. Each of
//! them stands here in Chinese as well, and so do the words of libraries that are passed on; what differs in them, such
//! as a name or what a parser met, is said as it is.

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
    (
        "cursor_too_old",
        "该游标之后的变更已无从得知",
        "The changes behind the cursor are no longer known",
    ),
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

/// What a problem says in detail: the English text, in which each `{}` stands for what differs, and the Chinese one.
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
    ("no such parameter", "没有这个参数"),
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
    (
        "Content-Type must be application/x-ndjson or text/csv",
        "Content-Type 必须是 application/x-ndjson 或 text/csv",
    ),
    (
        "the column {} is not known; there may be {}",
        "未知的列 {}；可用的列为 {}",
    ),
    ("the column {} is there twice", "列 {} 重复"),
    ("the column {} is missing", "缺少列 {}"),
    // Changes.
    (
        "must be a cursor of an answer before; leave it out to begin with what comes next",
        "必须是此前应答中的游标；省略则从此后的变更开始",
    ),
    (
        "as many polls as may be wait already; try again when one has ended",
        "等待变更的请求已达上限，请待其中一个结束后再试",
    ),
    (
        "what followed this cursor is no longer known: make a new copy, and go on with the cursor of snapshot",
        "该游标之后的变更已无从得知：请重新获取全量副本，并从 snapshot 的游标继续",
    ),
    ("too many, or too long", "数量过多或过长"),
    (
        "is missing; it is a prefix such as 88.118",
        "缺少该参数；应为前缀，例如 88.118",
    ),
    (
        "must be a handle of the prefix, such as next of the page before",
        "必须是该前缀下的标识，例如上一页的 next",
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
        "Content-Type must be text/plain (a handle a line), application/x-ndjson, application/json (an array) or text/csv",
        "Content-Type 必须是 text/plain（每行一个标识）、application/x-ndjson、application/json（数组）或 text/csv",
    ),
    (
        "the compressed body is damaged, or in another coding than Content-Encoding says",
        "压缩的请求体已损坏，或其编码与 Content-Encoding 不符",
    ),
    (
        "the compressed body is cut: it has no end",
        "压缩的请求体不完整，缺少结尾",
    ),
    (
        "the compressed body does not end as it should: it is cut or damaged",
        "压缩的请求体结尾不正确：不完整或已损坏",
    ),
    (
        "the compressed body needs a window above 8 MiB: compress it with a smaller one, such as zstd without --long or --ultra",
        "压缩的请求体所需窗口超过 8 MiB：请使用更小的窗口压缩，例如 zstd 不带 --long 或 --ultra",
    ),
    (
        "the body becomes too many times larger ([batch] ratio_max)",
        "请求体解压后的倍数超过上限（[batch] ratio_max）",
    ),
    ("of format {} must be a string", "格式为 {} 时必须是字符串"),
    (
        "must be 12 of 0 and 1, such as \"011111110011\": list … add handle",
        "必须是十二位 0 或 1，例如 \"011111110011\"，从“列出标识”到“新建标识”",
    ),
    ("is missing", "缺少该项"),
    (
        "must be \"RSA\" or \"DSA\"; give other keys as base64",
        "必须是 \"RSA\" 或 \"DSA\"；其他密钥请以 base64 给出",
    ),
    (
        "must be a version such as \"2.11\"",
        "必须是版本号，例如 \"2.11\"",
    ),
    (
        "must be UDP, TCP, HTTP or HTTPS",
        "必须是 UDP、TCP、HTTP 或 HTTPS",
    ),
    ("is after the year 2106", "晚于 2106 年"),
    ("is after January 2038", "晚于 2038 年 1 月"),
    (
        "is not a whole number of seconds below 2^31",
        "必须是小于 2^31 的整秒数",
    ),
    (
        "{} is not a time such as \"2030-01-31T00:00:00Z\"",
        "{} 不是如 \"2030-01-31T00:00:00Z\" 的时间",
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
    ("must be there", "缺少该参数"),
    ("must be a number", "必须是整数"),
    // Not now.
    (
        "the list is too long for one body: ask over TCP",
        "列表过长，一个应答体容纳不下：请通过 TCP 查询",
    ),
    ("no randomness", "系统无法提供随机数"),
    ("the audit trail cannot be written", "无法写入审计记录"),
    ("not decided", "尚未作出决定"),
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
        "the identifiers that the token has for today are used up",
        "该令牌今日可用的标识数已用完",
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
        "this node has epoch {} as well: nobody knows which of the two is the later",
        "本节点的纪元也是 {}，无法判断哪个更新",
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

/// What libraries say of JSON, Base64, hexadecimal digits and addresses, where a problem passes it on.
const FOREIGN: &[(&str, &str)] = &[
    ("missing field {}", "缺少字段 {}"),
    (
        "unknown field {}, expected one of {}",
        "未知字段 {}，可用的字段为 {}",
    ),
    ("unknown field {}, expected {}", "未知字段 {}，应为 {}"),
    ("unknown field {}, there are no fields", "未知字段 {}"),
    (
        "unknown variant {}, expected one of {}",
        "未知的取值 {}，可用的取值为 {}",
    ),
    ("unknown variant {}, expected {}", "未知的取值 {}，应为 {}"),
    ("duplicate field {}", "字段 {} 重复"),
    (
        "invalid type: {}, expected a value must be an object with index, type and data",
        "类型不正确：{}，值必须是含有 index、type 和 data 的对象",
    ),
    ("invalid type: {}, expected {}", "类型不正确：{}，应为 {}"),
    ("invalid value: {}, expected {}", "值不正确：{}，应为 {}"),
    ("invalid length {}, expected {}", "长度不正确：{}，应为 {}"),
    (
        "Invalid symbol {}, offset {}.",
        "无效的 Base64 字符（{}，位置 {}）",
    ),
    (
        "Invalid last symbol {} at offset {}, decoded as {}.",
        "无效的 Base64 结尾字符 {}（位置 {}，解码为 {}）",
    ),
    ("Invalid input length: {}", "Base64 长度不正确：{}"),
    ("Invalid padding", "Base64 填充不正确"),
    ("invalid IP address syntax", "IP 地址格式不正确"),
    ("Odd number of digits", "十六进制位数必须为偶数"),
    (
        "Invalid character {} at position {}",
        "无效的十六进制字符 {}（位置 {}）",
    ),
];

/// The detail of a problem in a language, as far as it is known there.
pub(super) fn detail(english: &str, language: Language) -> Cow<'_, str> {
    let chinese = match language {
        Language::English => None,
        Language::Chinese => {
            let known = DETAILS.iter().chain(FOREIGN);
            known.into_iter().find_map(|row| translated(english, row))
        }
    };
    chinese.unwrap_or(Cow::Borrowed(english))
}

/// The Chinese text of a row, if this is its English one.
fn translated(english: &str, (known, chinese): &(&str, &'static str)) -> Option<Cow<'static, str>> {
    let mut parts = known.split("{}");
    let mut rest = english.strip_prefix(parts.next()?)?;
    let mut said = chinese.split("{}");
    let mut out = String::from(said.next()?);
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty().then_some(Cow::Borrowed(*chinese));
    }
    while let Some(part) = parts.next() {
        // What differs ends where the text goes on; the last of it at the end.
        let differs = match parts.peek() {
            Some(_) => rest.split_once(part).map(|(differs, after)| {
                rest = after;
                differs
            }),
            None => rest.strip_suffix(part),
        };
        out.push_str(differs?);
        out.push_str(said.next()?);
    }
    Some(out.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::value;
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    /// Where the details of problems are written.
    const SOURCES: [&str; 7] = [
        "src/server/http",
        "src/registry",
        "src/batch/rows.rs",
        "src/json/data.rs",
        "src/json/key.rs",
        "src/json/site.rs",
        "src/json/value.rs",
    ];
    /// Files there in which other things are said: pages in both languages, the description of the API, records of
    /// batches and jobs, whose words are not negotiated, and what only the operator reads.
    const OTHERS: [&str; 20] = [
        "http/texts.rs",
        "http/page.rs",
        "http/html.rs",
        "http/openapi.rs",
        "http/certificate.rs",
        "http/batch/elsewhere.rs",
        "http/batch/streams.rs",
        "http/batch/work.rs",
        "http/jobs/questions.rs",
        "http/jobs/work.rs",
        "http/jobs/decide.rs",
        "registry/auth.rs",
        "registry/cipher.rs",
        "registry/keys.rs",
        "registry/nobody.rs",
        "registry/seal.rs",
        "audit/head.rs",
        "audit/mod.rs",
        "audit/tests.rs",
        "audit/trail.rs",
    ];
    /// Texts with spaces in the other files that are no details.
    const NO_DETAILS: [&str; 21] = [
        "Basic realm=\"handle\", charset=\"UTF-8\"",
        "jiexi basic authentication",
        "token {}",
        "identity {}",
        "application/javascript; charset=utf-8",
        "bytes {}-{}/{}",
        "Accept, Accept-Encoding",
        "home and create",
        "unhome and delete",
        "the SM2 curve is not usable",
        // Of a row of a table, which a job refuses by itself.
        "is not a number above 0",
        "a job registers handles; a prefix is homed by jiexi prefix add",
        "the row is longer than {} octets, or has more than {} columns",
        "the row cannot be decoded in its charset",
        "a quoted cell does not end: the input was cut, or there is a quotation mark too many",
        "the row has {} cells instead of {}",
        "{} is not known: string (or nothing), base64, hex, admin, vlist, site or key",
        "there is no handle in the row",
        "the ttl of value {} is below 0",
        "line {}: {}",
        "a few seconds",
    ];

    /// Reads the program as far as its texts are concerned.
    struct Scan<'s> {
        rest: &'s str,
        found: Vec<String>,
    }

    impl<'s> Scan<'s> {
        /// The texts of a file, but for its tests, comments, attributes and what is logged.
        fn texts(file: &'s str) -> Vec<String> {
            let end = file.find("#[cfg(test)]\nmod tests").unwrap_or(file.len());
            let mut scan = Self {
                rest: &file[..end],
                found: Vec::new(),
            };
            while !scan.rest.is_empty() {
                scan.step(true);
            }
            scan.found
        }

        fn step(&mut self, keep: bool) {
            let skipped = ["tracing::", ".expect("];
            if self.rest.starts_with("//") {
                self.rest = self.rest.split_once('\n').map_or("", |(_, rest)| rest);
            } else if self.rest.starts_with("#[") {
                self.skip('[', ']');
            } else if skipped.iter().any(|start| self.rest.starts_with(start)) {
                self.skip('(', ')');
            } else if let Some(text) = self.text() {
                if keep {
                    self.found.push(text);
                }
            } else if self.rest.starts_with("'\"'") || self.rest.starts_with("'\\''") {
                self.rest = &self.rest[self.rest[1..].find('\'').unwrap() + 2..];
            } else {
                self.advance();
            }
        }

        fn advance(&mut self) -> char {
            let next = self.rest.chars().next().unwrap();
            self.rest = &self.rest[next.len_utf8()..];
            next
        }

        /// Leaves out what stands up to the end of the next pair of brackets.
        fn skip(&mut self, open: char, close: char) {
            let mut depth = 0;
            while !self.rest.is_empty() {
                if self.rest.starts_with(open) {
                    depth += 1;
                } else if self.rest.starts_with(close) {
                    depth -= 1;
                    if depth == 0 {
                        self.advance();
                        return;
                    }
                }
                match self.rest.starts_with(['"', '\'', '/', 'r']) {
                    true => self.step_inside(),
                    false => drop(self.advance()),
                }
            }
        }

        fn step_inside(&mut self) {
            match self.rest.starts_with("//") {
                true => self.rest = self.rest.split_once('\n').map_or("", |(_, rest)| rest),
                false => {
                    if self.text().is_none() {
                        self.advance();
                    }
                }
            }
        }

        /// The text in quotes that begins here, as the program has it: continued lines joined, and what differs as `{}`.
        fn text(&mut self) -> Option<String> {
            for hashes in ["", "#", "##"] {
                if let Some(raw) = self.rest.strip_prefix(&format!("r{hashes}\"")) {
                    let (text, rest) = raw.split_once(&format!("\"{hashes}")).unwrap();
                    self.rest = rest;
                    return Some(text.to_owned());
                }
            }
            self.rest = self.rest.strip_prefix('"')?;
            let mut text = String::new();
            loop {
                match self.advance() {
                    '"' => return Some(without_names(&text)),
                    '\\' => match self.advance() {
                        '\n' => self.rest = self.rest.trim_start(),
                        escaped => text.push(escaped),
                    },
                    other => text.push(other),
                }
            }
        }
    }

    /// Text with every `{name}` as `{}`.
    fn without_names(text: &str) -> String {
        let mut parts = text.split('{');
        let mut out = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (bracket, rest) = match part.split_once('}') {
                Some((name, rest)) if !name.contains(['"', ' ']) => ("{}", rest),
                _ => ("{", part),
            };
            out.push_str(bracket);
            out.push_str(rest);
        }
        out
    }

    fn files(path: &Path, out: &mut Vec<PathBuf>) {
        if path.is_dir() {
            let entries = fs::read_dir(path).unwrap();
            entries.for_each(|entry| files(&entry.unwrap().path(), out));
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            out.push(path.to_owned());
        }
    }

    /// Files below these, by their paths, with what they say.
    fn program(places: &[&str]) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        places
            .iter()
            .for_each(|place| files(&root.join(place), &mut found));
        let read = |path: PathBuf| {
            let text = fs::read_to_string(&path).unwrap();
            (path.display().to_string(), text)
        };
        found.into_iter().map(read).collect()
    }

    fn is_chinese(text: &str) -> bool {
        text.chars().any(|c| ('\u{4e00}'..='\u{9fff}').contains(&c))
    }

    /// Goal: no row is left behind when the English text of an error changes.
    #[test]
    fn every_detail_is_said_somewhere() {
        let said: BTreeSet<String> = program(&["src"])
            .iter()
            .filter(|(path, _)| !path.ends_with("http/texts.rs"))
            .flat_map(|(_, text)| Scan::texts(text))
            .collect();
        for (english, _) in DETAILS {
            assert!(said.contains(*english), "nobody says {english:?}");
        }
    }

    /// Goal: whatever is said why not has a Chinese text. Method: whatever has spaces and small letters in it in the files
    /// where details are written is one, unless it is named here as something else.
    #[test]
    fn every_detail_is_said_in_chinese() {
        let files = program(&SOURCES);
        let is_other = |path: &str| OTHERS.iter().any(|other| path.ends_with(other));
        assert!(files.len() > 50, "the sources are read");
        let (mut unknown, mut known) = (Vec::new(), 0);
        for (path, text) in files.iter().filter(|(path, _)| !is_other(path)) {
            for said in Scan::texts(text) {
                let is_text = said.contains(' ') && said.contains(|c: char| c.is_ascii_lowercase());
                if !is_text || NO_DETAILS.contains(&&*said) {
                    continue;
                }
                match DETAILS.iter().any(|(english, _)| *english == said) {
                    true => known += 1,
                    false => unknown.push(format!("{path}: {said:?}")),
                }
            }
        }
        assert!(
            unknown.is_empty(),
            "no Chinese text of\n{}",
            unknown.join("\n")
        );
        assert!(known > 100, "{known}");
        for (english, chinese) in DETAILS.iter().chain(FOREIGN) {
            let count = |text: &str| text.matches("{}").count();
            assert!(is_chinese(chinese), "{chinese}");
            assert_eq!(count(chinese), count(english), "{english}");
        }
    }

    /// Goal: every problem has a title in both languages.
    #[test]
    fn every_problem_has_a_title() {
        let (mut names, is_name) = (BTreeSet::new(), |text: &str| {
            text.contains('_') && text.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        });
        for (_, text) in program(&["src/server/http"]) {
            // A status, or a variable that has it, stands before the name.
            for place in ["StatusCode::", "status,", "named("] {
                for (at, _) in text.match_indices(place) {
                    let near: String = text[at..].chars().take(120).collect();
                    let quoted = near
                        .split_once('"')
                        .and_then(|(_, rest)| rest.split_once('"'));
                    names.extend(
                        quoted
                            .map(|(name, _)| name.to_owned())
                            .filter(|name| is_name(name)),
                    );
                }
            }
        }
        assert!(names.len() > 20, "{names:?}");
        for name in names {
            assert!(
                is_chinese(title(&name, Language::Chinese)),
                "{name} has no title"
            );
            assert_ne!(title(&name, Language::English), "", "{name}");
        }
    }

    /// Goal: what libraries say of a value is passed on in Chinese. Method: values that are wrong in every way that a
    /// client finds.
    #[test]
    fn words_of_libraries() {
        let data = |data: &str| format!(r#"{{"index":1,"type":"T","data":{data}}}"#);
        let site = r#"{"format":"site","value":{"serialNumber":1,"servers":1}}"#;
        let wrong = [
            "1".to_owned(),
            "[1,2]".into(),
            "{}".into(),
            r#"{"index":1}"#.into(),
            r#"{"index":1,"type":"T"}"#.into(),
            r#"{"index":"1","type":"T","data":"x"}"#.into(),
            r#"{"index":-1,"type":"T","data":"x"}"#.into(),
            r#"{"index":1.5,"type":"T","data":"x"}"#.into(),
            r#"{"index":1,"type":1,"data":"x"}"#.into(),
            r#"{"index":1,"type":"","data":"x"}"#.into(),
            r#"{"index":1,"type":"T","data":"x","more":1}"#.into(),
            r#"{"index":1,"type":"T","data":"x","ttl":1.5}"#.into(),
            r#"{"index":1,"type":"T","data":"x","ttl":"soon"}"#.into(),
            r#"{"index":1,"type":"T","data":"x","ttl":[]}"#.into(),
            r#"{"index":1,"type":"T","data":"x","ttl":"2040-01-31T00:00:00Z"}"#.into(),
            r#"{"index":1,"type":"T","data":"x","timestamp":"2140-01-31T00:00:00Z"}"#.into(),
            r#"{"index":1,"type":"T","data":"x","timestamp":"now"}"#.into(),
            r#"{"index":1,"type":"T","data":"x","timestamp":7}"#.into(),
            r#"{"index":1,"type":"T","data":"x","permissions":"2"}"#.into(),
            r#"{"index":1,"type":"T","data":"x","references":[{}]}"#.into(),
            r#"{"index":1,"type":"T","data":"x","references":[{"handle":"a","index":1,"x":2}]}"#
                .into(),
            data("1"),
            data(r#"{"format":"xml","value":"x"}"#),
            data(r#"{"format":"hex","value":1}"#),
            data(r#"{"format":"hex","value":"a"}"#),
            data(r#"{"format":"hex","value":"zz"}"#),
            data(r#"{"format":"base64","value":"a"}"#),
            data(r#"{"format":"base64","value":"!!!!"}"#),
            data(r#"{"format":"base64","value":"abc"}"#),
            data(r#"{"format":"base64","value":"ab=="}"#),
            data(r#"{"format":"base64","value":"a==="}"#),
            data(r#"{"format":"admin","value":"x"}"#),
            data(r#"{"format":"admin","value":{"handle":"a/b","index":1,"permissions":"1"}}"#),
            data(r#"{"format":"vlist","value":{}}"#),
            data(r#"{"format":"vlist","value":[{"handle":1}]}"#),
            data(r#"{"format":"key","value":{}}"#),
            data(r#"{"format":"key","value":{"kty":"RSA"}}"#),
            data(r#"{"format":"key","value":{"kty":"RSA","e":"!","n":"x"}}"#),
            data(site),
            data(&site.replace("1}", "[{}]}")),
            data(&site.replace("1}", "[{\"serverId\":\"a\"}]}")),
            data(&site.replace(
                "1}",
                "[{\"serverId\":1,\"address\":\"here\",\"interfaces\":[]}]}",
            )),
            data(&site.replace("\"servers\":1", "\"servers\":[],\"protocolVersion\":\"x\"")),
        ];
        for text in wrong {
            let json = serde_json::from_str(&text).unwrap();
            let error = value::read(json, 0).expect_err(&text);
            let said = detail(&error.message, Language::Chinese);
            assert!(is_chinese(&said), "{text}: {said}");
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
        assert_eq!(
            said("the column colour is not known; there may be handle, value"),
            "未知的列 colour；可用的列为 handle, value"
        );
        assert_eq!(said("something new"), "something new");
        assert_eq!(
            detail("too many lists", Language::English),
            "too many lists"
        );
    }
}
