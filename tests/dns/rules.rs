//! Goal: what is answered follows the standards. Method: questions through the responders, both ways,
//! without sockets; answers decoded by hickory-proto.

use std::net::IpAddr;

use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::NAPTR;
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use jiexi::config::{Rule, RuleKind};
use jiexi::records;
use jiexi::server::dns::Channel;
use jiexi::server::dns::name::Scheme;
use jiexi::server::dns::records::URI;
use jiexi::server::dns::zone::Zones;
use jiexi_proto::handle::CaseRule;

use crate::node::{Bench, PUBLIC, long_suffix, option, question, value, with_edns, zone};

const CNC: &str = "cnc-1.88-118-1.id.example.net.";

fn code(message: &Message) -> ResponseCode {
    message.metadata.response_code
}

fn naptr(message: &Message) -> Vec<&NAPTR> {
    let data = message.answers.iter().map(|record| &record.data);
    data.filter_map(|data| {
        if let RData::NAPTR(naptr) = data {
            Some(naptr)
        } else {
            None
        }
    })
    .collect()
}

/// The SOA record of a negative answer: its owner, TTL and minimum.
fn soa(message: &Message) -> (String, u32, u32) {
    assert!(message.answers.is_empty(), "{message}");
    let [record] = &message.authorities[..] else {
        panic!("{message}")
    };
    let RData::SOA(soa) = &record.data else {
        panic!("{message}")
    };
    (record.name.to_ascii(), record.ttl, soa.minimum)
}

#[test]
fn rfc3403_4_naptr_of_url_values() {
    let answer = Bench::new().question(CNC, RecordType::NAPTR);
    assert!(answer.metadata.authoritative);
    let found = naptr(&answer);
    assert_eq!(found.len(), 2);
    let first = found[0];
    assert_eq!(
        (first.order, first.preference, &*first.flags),
        (10, 10, &b"u"[..])
    );
    assert_eq!(&*first.services, b"http+I2L");
    assert_eq!(&*first.regexp, b"!^.*$!https://id.example/cnc-1!");
    assert_eq!(first.replacement, Name::root());
}

#[test]
fn rfc3402_3_2_urls_that_no_expression_carries() {
    let mut bench = Bench::new();
    let answer = bench.question("odd.88-118-1.id.example.net.", RecordType::NAPTR);
    let found = naptr(&answer);
    assert_eq!(found.len(), 1, "a backslash would be a reference");
    assert_eq!(
        &*found[0].regexp, b"|^.*$|https://id.example/!|",
        "another delimiter"
    );
    assert_eq!(answer.answers[0].ttl, 0, "a negative TTL is none");
}

#[test]
fn rfc7553_4_uri_of_url_values() {
    let answer = Bench::new().question(CNC, RecordType::from(URI));
    let RData::Unknown { rdata, .. } = &answer.answers[0].data else {
        panic!("{answer}")
    };
    assert_eq!(rdata.anything, b"\0\x0a\0\0https://id.example/cnc-1");
}

#[test]
fn rfc2181_5_2_one_ttl_for_all_records_of_a_type() {
    let answer = Bench::new().question(CNC, RecordType::NAPTR);
    let ttls: Vec<u32> = answer.answers.iter().map(|record| record.ttl).collect();
    assert_eq!(ttls, [600, 600]);
}

#[test]
fn rfc2181_5_no_record_twice() {
    let answer = Bench::new().question("twice.88-118-1.id.example.net.", RecordType::NAPTR);
    assert_eq!(answer.answers.len(), 1);
    assert_eq!(answer.answers[0].ttl, 60);
}

#[test]
fn rfc3651_3_1_absolute_times_become_a_ttl() {
    let answer = Bench::new().question("until.88-118-1.id.example.net.", RecordType::NAPTR);
    assert_eq!(answer.answers[0].ttl, 90);
}

#[test]
fn text_only_where_a_rule_asks_for_it() {
    let mut bench = Bench::new();
    let none = bench.question(CNC, RecordType::TXT);
    assert_eq!(
        (code(&none), none.answers.len()),
        (ResponseCode::NoError, 0)
    );
    let some = bench.question("cnc-1.text.example.net.", RecordType::TXT);
    let RData::TXT(text) = &some.answers[0].data else {
        panic!("{some}")
    };
    assert_eq!(&*text.txt_data[0], "a thing, 一个东西".as_bytes());
}

/// Goal: keys and rights are never served. Method: no zone is made of a table that asks for them; and of public values of
/// their types nothing is in any answer. That a rule which came past would make nothing: `records::tests`.
#[test]
fn secrets_and_rights_never_whatever_the_table_says() {
    let refused = [
        "HS_SECKEY",
        "hs_admin",
        "HS_SECKEY.",
        "HS_ADMIN.",
        "HS_SECKEY.OLD",
        "hs_admin.old",
    ];
    for kind in refused {
        for record in [RuleKind::Txt, RuleKind::Naptr, RuleKind::Uri, RuleKind::Srv] {
            let mut asking = zone("x.example.net", Scheme::Handle, "");
            asking.rules = vec![
                Rule::new(RuleKind::Uri, "URL", ""),
                Rule::new(record, kind, "x"),
            ];
            let faults =
                Zones::new(&[asking], CaseRule::Whole).expect_err("a table that asks for keys");
            let said = faults[0].to_string();
            assert!(
                said.contains(&format!("rule 2: {kind} values are never served")),
                "{said}"
            );
            assert_eq!((faults.len(), faults[0].key), (1, "rules"));
        }
    }
    let mut bench = Bench::new();
    let mut seen = 0;
    for name in [
        CNC,
        "cnc-1.text.example.net.",
        "secret.88-118-1.id.example.net.",
        "secret.text.example.net.",
        "3.156.2.1.oid.example.net.",
    ] {
        for kind in [16, 35, 256, 255, 1, 33].map(RecordType::from) {
            let answer = bench.question(name, kind).to_vec().expect("encodes");
            let has = |text: &[u8]| answer.windows(text.len()).any(|part| part == text);
            assert!(
                !has(b"secret!") && !has(b"\x05admin") && !has(b"https://secret.example/"),
                "{name} {kind}"
            );
            seen += usize::from(has(b"https://id.example/") || has(b"a thing, "));
        }
    }
    assert_eq!(seen, 6, "what may be seen is");
}

#[test]
fn what_is_not_public_does_not_exist() {
    let answer = Bench::new().question("secret.88-118-1.id.example.net.", RecordType::NAPTR);
    assert_eq!(code(&answer), ResponseCode::NXDomain);
}

#[test]
fn rfc1035_2_3_4_long_suffixes_have_a_hashed_label() {
    let mut bench = Bench::new();
    let mut wire = Vec::new();
    let mapping = bench
        .shared
        .zones
        .iter()
        .find(|zone| zone.apex.starts_with(b"\x02id"))
        .expect("a zone")
        .mapping
        .clone();
    assert!(mapping.write(format!("88.118.1/{}", long_suffix()).as_bytes(), &mut wire));
    let name = format!("{}id.example.net.", jiexi::server::dns::zone::text(&wire));
    let answer = bench.question(&name, RecordType::NAPTR);
    assert_eq!(
        &*naptr(&answer)[0].regexp,
        b"!^.*$!https://id.example/long!"
    );
    let other = format!("_h{}.88-118-1.id.example.net.", "0".repeat(32));
    assert_eq!(
        code(&bench.question(&other, RecordType::NAPTR)),
        ResponseCode::NXDomain
    );
}

#[test]
fn x672_oid_reversed() {
    let mut bench = Bench::new();
    let answer = bench.question("3.156.2.1.oid.example.net.", RecordType::NAPTR);
    let first = naptr(&answer)[0];
    assert_eq!(&*first.services, b"ORS+1:UINF", "information with a URI");
    assert_eq!(&*first.regexp, b"!^.*$!https://id.example/oid!");
    assert_eq!(
        code(&bench.question("4.156.2.1.oid.example.net.", RecordType::NAPTR)),
        ResponseCode::NXDomain
    );
}

#[test]
fn ons2_gtin_digits_reversed() {
    let name = "9.8.7.6.5.4.3.2.1.0.9.6.0.gtin.example.net.";
    let answer = Bench::new().question(name, RecordType::NAPTR);
    assert_eq!(
        &*naptr(&answer)[0].regexp,
        b"!^.*$!https://id.example/gtin!"
    );
}

#[test]
fn rfc4592_2_2_2_empty_non_terminals_exist() {
    let mut bench = Bench::new();
    for name in [
        "2.1.oid.example.net.",
        "1.oid.example.net.",
        "9.6.0.gtin.example.net.",
    ] {
        let answer = bench.question(name, RecordType::NAPTR);
        assert_eq!(code(&answer), ResponseCode::NoError, "{name}");
        soa(&answer);
    }
    for name in [
        "2.2.oid.example.net.",
        "8.6.0.gtin.example.net.",
        "88-118-9.id.example.net.",
    ] {
        assert_eq!(
            code(&bench.question(name, RecordType::NAPTR)),
            ResponseCode::NXDomain,
            "{name}"
        );
    }
}

/// More handles without a record than are looked at stand before one that has some.
#[test]
fn rfc8020_2_a_name_is_not_denied_while_one_below_exists() {
    let mut bench = Bench::new();
    let text = [value(1, "DESC", b"no record", 60, PUBLIC)];
    let url = [value(1, "URL", b"https://id.example/last", 60, PUBLIC)];
    let silent = (100..200).map(|arc| (format!("88.118.1/1.7.{arc}"), &text));
    let last = ("88.118.1/1.7.999".to_owned(), &url);
    let changes = silent
        .chain([last])
        .map(|(handle, values)| records::put_values(handle.as_bytes(), values, CaseRule::Whole));
    let changes = records::batch(changes.collect());
    bench.shared.store.commit(changes).expect("committed");
    for (name, answers) in [("999.7.1.oid.example.net.", 1), ("7.1.oid.example.net.", 0)] {
        let answer = bench.question(name, RecordType::NAPTR);
        assert_eq!(code(&answer), ResponseCode::NoError, "{name}");
        assert_eq!(answer.answers.len(), answers, "{name}");
    }
}

#[test]
fn addresses_and_ports_of_a_site() {
    let mut bench = Bench::new();
    let ips = |answer: &Message| -> Vec<IpAddr> {
        answer
            .answers
            .iter()
            .filter_map(|record| record.data.ip_addr())
            .collect()
    };
    // The second prefix has no record: it is answered with the site of the node.
    for prefix in ["88-118-1", "88-118-2"] {
        let name = format!("{prefix}.id.example.net.");
        let four = bench.question(&name, RecordType::A);
        assert_eq!(
            ips(&four),
            ["192.0.2.10".parse::<IpAddr>().expect("an address")]
        );
        let six = bench.question(&name, RecordType::AAAA);
        assert_eq!(
            ips(&six),
            ["2001:db8::10".parse::<IpAddr>().expect("an address")]
        );
        for (protocol, port) in [("_tcp", 2641), ("_udp", 2642)] {
            let service = format!("_hdl-srv.{protocol}.{name}");
            let answer = bench.question(&service, RecordType::SRV);
            let RData::SRV(srv) = &answer.answers[0].data else {
                panic!("{answer}")
            };
            assert_eq!((srv.port, srv.target.to_ascii()), (port, name.clone()));
            let above = bench.question(&format!("{protocol}.{name}"), RecordType::SRV);
            assert_eq!(
                (code(&above), above.answers.len()),
                (ResponseCode::NoError, 0)
            );
        }
    }
    let none = bench.question(
        "_hdl-srv._tcp.cnc-1.88-118-1.id.example.net.",
        RecordType::SRV,
    );
    assert_eq!(code(&none), ResponseCode::NXDomain);
}

#[test]
fn rfc1035_3_3_13_soa_and_name_servers_at_the_apex() {
    let mut bench = Bench::new();
    let answer = bench.question("id.example.net.", RecordType::SOA);
    let RData::SOA(soa) = &answer.answers[0].data else {
        panic!("{answer}")
    };
    assert_eq!(soa.mname.to_ascii(), "ns1.example.net.");
    assert_eq!(soa.rname.to_ascii(), "hostmaster.example.net.");
    assert_eq!(u64::from(soa.serial), bench.shared.store.sequence());
    let servers = bench.question("id.example.net.", RecordType::NS);
    assert_eq!(servers.answers.len(), 2);
    assert_eq!(
        code(&bench.question("id.example.net.", RecordType::A)),
        ResponseCode::NoError
    );
}

#[test]
fn rfc2308_2_1_name_error_with_soa() {
    let answer = Bench::new().question("none.88-118-1.id.example.net.", RecordType::NAPTR);
    assert_eq!(code(&answer), ResponseCode::NXDomain);
    assert!(answer.metadata.authoritative);
    assert_eq!(soa(&answer), ("id.example.net.".into(), 300, 300));
}

#[test]
fn rfc2308_2_2_no_data_with_soa() {
    let answer = Bench::new().question(CNC, RecordType::MX);
    assert_eq!(code(&answer), ResponseCode::NoError);
    assert_eq!(soa(&answer), ("id.example.net.".into(), 300, 300));
}

#[test]
fn rfc8020_2_nothing_below_a_name_that_does_not_exist() {
    let mut bench = Bench::new();
    for name in [
        "a.none.88-118-1.id.example.net.",
        "a.cnc-1.88-118-1.id.example.net.",
    ] {
        assert_eq!(
            code(&bench.question(name, RecordType::NAPTR)),
            ResponseCode::NXDomain
        );
    }
}

#[test]
fn draft_vixie_dns0x20_case_is_kept() {
    let mut bench = Bench::new();
    for name in [
        "cNc-1.88-118-1.iD.eXample.NET.",
        "NoNe.88-118-1.Id.Example.neT.",
    ] {
        let asked = question(name, RecordType::NAPTR);
        let answer = bench.message(&asked, Channel::Udp);
        assert_eq!(answer.queries[0].name.to_ascii(), name);
        for record in answer.answers.iter().chain(&answer.authorities) {
            assert!(name.ends_with(&record.name.to_ascii()), "{}", record.name);
        }
    }
}

#[test]
fn rfc8482_4_2_any_gets_one_small_record() {
    let answer = Bench::new().question(CNC, RecordType::ANY);
    let [record] = &answer.answers[..] else {
        panic!("{answer}")
    };
    let RData::HINFO(hinfo) = &record.data else {
        panic!("{answer}")
    };
    assert_eq!(&*hinfo.cpu, b"RFC8482");
}

#[test]
fn rfc1035_4_1_1_refused_outside_the_zones() {
    let asked = with_edns(question("www.example.org.", RecordType::A), &[]);
    let answer = Bench::new().message(&asked, Channel::Udp);
    assert_eq!(code(&answer), ResponseCode::Refused);
    assert!(!answer.metadata.authoritative && answer.authorities.is_empty());
    assert_eq!(
        option(&answer, 15),
        Some(vec![0, 20]),
        "RFC 8914 §4.21: not authoritative"
    );
}

#[test]
fn rfc1035_4_1_1_not_implemented() {
    let mut bench = Bench::new();
    for op_code in [OpCode::Status, OpCode::Notify, OpCode::Update] {
        let mut asked = question(CNC, RecordType::SOA);
        asked.metadata.op_code = op_code;
        let answer = bench.message(&asked, Channel::Udp);
        assert_eq!(
            (code(&answer), answer.metadata.op_code),
            (ResponseCode::NotImp, op_code)
        );
    }
}

#[test]
fn rfc1035_4_1_1_format_error() {
    let mut bench = Bench::new();
    let whole = question(CNC, RecordType::NAPTR).to_vec().expect("encodes");
    for length in 12..whole.len() {
        let answer = bench
            .ask(&whole[..length], Channel::Udp)
            .expect("an answer");
        assert_eq!(answer[3] & 0xF, 1, "FORMERR at {length}");
        assert_eq!(answer[..2], whole[..2]);
    }
    for length in 0..12 {
        assert_eq!(bench.ask(&whole[..length], Channel::Udp), None, "{length}");
    }
    let mut two = question(CNC, RecordType::NAPTR);
    two.queries.push(two.queries[0].clone());
    assert_eq!(
        code(&bench.message(&two, Channel::Udp)),
        ResponseCode::FormErr
    );
}

#[test]
fn rfc1035_4_1_1_responses_are_never_answered() {
    let mut bench = Bench::new();
    let mut octets = question(CNC, RecordType::NAPTR).to_vec().expect("encodes");
    octets[2] |= 0x80;
    assert_eq!(bench.ask(&octets, Channel::Udp), None);
}

#[test]
fn rfc5936_zone_transfer_refused() {
    let mut bench = Bench::new();
    for kind in [RecordType::AXFR, RecordType::IXFR] {
        assert_eq!(
            code(&bench.question("id.example.net.", kind)),
            ResponseCode::Refused
        );
    }
}

#[test]
fn rfc4892_version_is_nobodys_business() {
    let mut bench = Bench::new();
    for name in ["version.bind.", "version.server.", "id.server."] {
        let mut asked = with_edns(question(name, RecordType::TXT), &[]);
        asked.queries[0].query_class = DNSClass::CH;
        let answer = bench.message(&asked, Channel::Udp);
        assert_eq!(
            (code(&answer), answer.answers.len()),
            (ResponseCode::Refused, 0)
        );
        assert_eq!(
            option(&answer, 15),
            Some(vec![0, 18]),
            "RFC 8914 §4.19: prohibited"
        );
    }
}

#[test]
fn rfc6891_6_1_1_opt_only_to_who_sent_one() {
    let mut bench = Bench::new();
    let asked = question(CNC, RecordType::NAPTR);
    assert!(bench.message(&asked, Channel::Udp).edns.is_none());
    let answer = bench.message(&with_edns(asked, &[]), Channel::Udp);
    let edns = answer.edns.expect("an OPT record");
    assert_eq!((edns.max_payload(), edns.version()), (1232, 0));
}

#[test]
fn rfc6891_6_1_3_bad_version() {
    let mut asked = with_edns(question(CNC, RecordType::NAPTR), &[]);
    asked.edns.as_mut().expect("set").set_version(1);
    let answer = Bench::new().message(&asked, Channel::Udp);
    // The number 16 has two names.
    assert_eq!(u16::from(code(&answer)), u16::from(ResponseCode::BADVERS));
    assert_eq!(answer.edns.expect("an OPT record").version(), 0);
    assert!(answer.answers.is_empty());
}

#[test]
fn rfc3225_3_dnssec_ok_is_copied() {
    let mut asked = with_edns(question(CNC, RecordType::NAPTR), &[]);
    asked.edns.as_mut().expect("set").set_dnssec_ok(true);
    let answer = Bench::new().message(&asked, Channel::Udp);
    assert!(answer.edns.expect("an OPT record").flags().dnssec_ok);
}

#[test]
fn rfc2181_9_truncation_over_udp_and_all_over_tcp() {
    let mut bench = Bench::new();
    let asked = question("big.88-118-1.id.example.net.", RecordType::NAPTR);
    for asked in [asked.clone(), with_edns(asked.clone(), &[])] {
        let short = bench.message(&asked, Channel::Udp);
        assert!(
            short.metadata.truncation && short.answers.is_empty(),
            "{short}"
        );
        assert_eq!(short.edns.is_some(), asked.edns.is_some());
        assert_eq!(short.queries, asked.queries);
        let all = bench.message(&asked, Channel::Tcp);
        assert!(!all.metadata.truncation);
        assert_eq!(all.answers.len(), 9);
    }
}

#[test]
fn rfc7873_5_2_cookies() {
    let mut bench = Bench::new();
    let asked = question(CNC, RecordType::NAPTR);
    let first = bench.message(
        &with_edns(asked.clone(), &[(10, b"clientck")]),
        Channel::Udp,
    );
    let cookie = option(&first, 10).expect("a cookie");
    assert_eq!((cookie.len(), &cookie[..8]), (24, &b"clientck"[..]));
    let again = bench.message(&with_edns(asked.clone(), &[(10, &cookie)]), Channel::Udp);
    assert_eq!(option(&again, 10), Some(cookie.clone()));
    let mut forged = cookie;
    forged[20] ^= 1;
    let answer = bench.message(&with_edns(asked.clone(), &[(10, &forged)]), Channel::Udp);
    assert_ne!(option(&answer, 10), Some(forged));
    for length in [0, 7, 9, 15, 41] {
        let cookie = vec![1; length];
        let answer = bench.message(&with_edns(asked.clone(), &[(10, &cookie)]), Channel::Udp);
        assert_eq!(
            code(&answer),
            ResponseCode::FormErr,
            "RFC 7873 §5.2.2, {length} octets"
        );
    }
}

#[test]
fn rfc7873_5_4_a_cookie_and_no_question() {
    let mut asked = with_edns(question(CNC, RecordType::NAPTR), &[(10, b"clientck")]);
    asked.queries.clear();
    let answer = Bench::new().message(&asked, Channel::Udp);
    assert_eq!(code(&answer), ResponseCode::NoError);
    assert_eq!(option(&answer, 10).map(|cookie| cookie.len()), Some(24));
}

/// The answer to a question over UDP with this cookie, if any, and its octets.
fn with_cookie(bench: &mut Bench, name: &str, cookie: Option<&[u8]>) -> (Message, usize) {
    let options: Vec<(u16, &[u8])> = cookie.into_iter().map(|cookie| (10, cookie)).collect();
    let asked = with_edns(question(name, RecordType::NAPTR), &options);
    let octets = asked.to_vec().expect("encodes");
    let answer = bench.ask(&octets, Channel::Udp).expect("an answer");
    let length = answer.len();
    (Message::from_vec(&answer).expect("a message"), length)
}

/// Asks for a name with `count` records that are too much for strangers: cut without a valid cookie, whole with one, which
/// is more than `least` octets.
fn only_with_a_cookie(bench: &mut Bench, name: &str, count: usize, least: usize) {
    let mut good = Vec::new();
    for cookie in [None, Some(b"clientck".to_vec()), Some([7; 24].to_vec())] {
        let (answer, length) = with_cookie(bench, name, cookie.as_deref());
        assert!(
            answer.metadata.truncation && answer.answers.is_empty(),
            "{answer}"
        );
        assert!(length < 300, "{length} octets to {cookie:?}");
        good = option(&answer, 10).unwrap_or_default();
    }
    let (answer, length) = with_cookie(bench, name, Some(&good));
    assert!(!answer.metadata.truncation, "{answer}");
    assert_eq!(answer.answers.len(), count);
    assert!(length > least, "{length} octets");
    let mut forged = good;
    forged[23] ^= 1;
    let (answer, _) = with_cookie(bench, name, Some(&forged));
    assert!(answer.metadata.truncation, "{answer}");
}

/// Puts URLs of about 180 octets under a handle.
fn put_urls(bench: &Bench, handle: &str, count: u32) {
    let url = |n| format!("https://id.example/{}{n}", "u".repeat(160));
    let values: Vec<_> = (1..=count)
        .map(|n| value(n, "URL", url(n).as_bytes(), 60, PUBLIC))
        .collect();
    let put = records::put_values(handle.as_bytes(), &values, CaseRule::Whole);
    let store = &bench.shared.store;
    store.commit(records::batch(vec![put])).expect("committed");
}

/// Goal: an answer above ten times its question is cut for who has not shown its address. Method: four long values, some 950
/// octets to some 70: within every other limit.
#[test]
fn rfc7873_5_2_3_a_cookie_lifts_the_bound_of_amplification() {
    let mut bench = Bench::new();
    put_urls(&bench, "88.118.1/FOUR", 4);
    only_with_a_cookie(&mut bench, "four.88-118-1.id.example.net.", 4, 900);
    // Below that bound nobody needs one.
    let (answer, _) = with_cookie(&mut bench, CNC, None);
    assert_eq!(answer.answers.len(), 2);
}

/// Goal: without a valid cookie never more than 1232 octets leave, however large `udp_payload` is. Method: the longest name
/// there is room for, so that ten times the question is more than that.
#[test]
fn without_a_cookie_1232_octets_whatever_is_configured() {
    let mut bench = Bench::with(|shared| shared.udp_payload = 4096);
    let prefix = format!("88.{}", "1".repeat(60));
    let home = records::home_prefix(format!("0.NA/{prefix}").as_bytes(), CaseRule::Whole);
    let store = &bench.shared.store;
    store.commit(records::batch(vec![home])).expect("committed");
    let suffix = "S".repeat(63);
    put_urls(&bench, &format!("{prefix}/{suffix}"), 6);
    let name = format!("{suffix}.{}.id.example.net.", prefix.replace('.', "-"));
    only_with_a_cookie(&mut bench, &name, 6, 1232);
    // Padding makes every question long enough for ten times as much, and takes the full way.
    let big = question("big.88-118-1.id.example.net.", RecordType::NAPTR);
    let padded = bench.message(&with_edns(big.clone(), &[(12, &[0; 250])]), Channel::Udp);
    assert!(
        padded.metadata.truncation && padded.answers.is_empty(),
        "{padded}"
    );
    let asked = with_edns(big.clone(), &[(10, b"clientck"), (12, &[0; 250])]);
    let cookie = option(&bench.message(&asked, Channel::Udp), 10).expect("a cookie");
    let proven = with_edns(big, &[(10, &cookie), (12, &[0; 250])]);
    assert_eq!(bench.message(&proven, Channel::Udp).answers.len(), 9);
}

#[test]
fn rfc5001_2_name_server_identifier() {
    let mut bench = Bench::new();
    let asked = with_edns(question(CNC, RecordType::NAPTR), &[(3, b"")]);
    assert_eq!(
        option(&bench.message(&asked, Channel::Udp), 3),
        Some(b"node-3".to_vec())
    );
    let asked = with_edns(question(CNC, RecordType::NAPTR), &[]);
    assert_eq!(option(&bench.message(&asked, Channel::Udp), 3), None);
}

#[test]
fn rfc7828_3_keepalive_on_connections_alone() {
    let mut bench = Bench::new();
    let asked = with_edns(question(CNC, RecordType::NAPTR), &[(11, b"")]);
    assert_eq!(
        option(&bench.message(&asked, Channel::Tcp), 11),
        Some(vec![1, 44])
    );
    assert_eq!(option(&bench.message(&asked, Channel::Udp), 11), None);
    let timed = with_edns(question(CNC, RecordType::NAPTR), &[(11, b"\0\x01")]);
    assert_eq!(
        code(&bench.message(&timed, Channel::Tcp)),
        ResponseCode::FormErr
    );
}

#[test]
fn rfc8467_4_1_padding_under_tls_alone() {
    let mut bench = Bench::new();
    let asked = with_edns(question(CNC, RecordType::NAPTR), &[(12, &[0; 30])]);
    let octets = asked.to_vec().expect("encodes");
    let padded = bench.ask(&octets, Channel::Tls).expect("an answer");
    assert_eq!(padded.len() % 468, 0);
    assert_eq!(
        naptr(&Message::from_vec(&padded).expect("a message")).len(),
        2
    );
    assert_ne!(
        bench.ask(&octets, Channel::Tcp).expect("an answer").len() % 468,
        0
    );
}

#[test]
fn rfc6895_unknown_types_are_no_data() {
    let answer = Bench::new().question(CNC, RecordType::from(65_280));
    assert_eq!(code(&answer), ResponseCode::NoError);
    soa(&answer);
}

/// An option that is not known here is ignored, however it looks inside; a client subnet of family 0 is one.
#[test]
fn rfc6891_6_1_2_options_that_are_not_known_are_ignored() {
    let mut bench = Bench::new();
    let subnets: [&[u8]; 4] = [
        &[0, 0, 0, 0],
        &[0, 3, 0, 0],
        &[0, 1, 33, 0, 192, 0, 2, 1],
        &[0],
    ];
    for subnet in subnets {
        let asked = with_edns(question(CNC, RecordType::NAPTR), &[(8, subnet)]);
        let answer = bench.message(&asked, Channel::Udp);
        assert_eq!(code(&answer), ResponseCode::NoError, "{subnet:?}");
        assert!(answer.edns.is_some() && !answer.answers.is_empty());
    }
}

/// What says that it knows EDNS hears so, even when it is told that its options are not whole.
#[test]
fn rfc6891_7_a_format_error_has_an_opt_record() {
    let mut bench = Bench::new();
    let whole = with_edns(question(CNC, RecordType::NAPTR), &[(8, &[0, 1, 8, 0, 192])])
        .to_vec()
        .expect("encodes");
    for cut in 1..9 {
        let answer = bench
            .ask(&whole[..whole.len() - cut], Channel::Udp)
            .expect("an answer");
        let answer = Message::from_vec(&answer).expect("a message");
        assert_eq!(code(&answer), ResponseCode::FormErr, "{cut} octets cut");
        assert!(answer.edns.is_some(), "{cut} octets cut");
    }
}

/// An answer that no transport can carry is a whole message all the same: cut, with the options at its end.
#[test]
fn rfc6891_6_1_1_an_answer_beyond_64_kib_is_well_formed() {
    let mut bench = Bench::new();
    let handle = "88.118.1/MANY";
    let values: Vec<_> = (1..=600)
        .map(|index| {
            let url = format!("https://id.example/{index}/{}", "x".repeat(150));
            value(index, "URL", url.as_bytes(), 60, PUBLIC)
        })
        .collect();
    let change = records::put_values(handle.as_bytes(), &values, CaseRule::Whole);
    let batch = records::batch(vec![change]);
    bench.shared.store.commit(batch).expect("committed");
    let asked = question("many.88-118-1.id.example.net.", RecordType::NAPTR);
    for channel in [Channel::Udp, Channel::Tcp] {
        let answer = bench.message(&with_edns(asked.clone(), &[(10, b"clientck")]), channel);
        assert!(answer.metadata.truncation && answer.answers.is_empty());
        assert_eq!(option(&answer, 10).map(|cookie| cookie.len()), Some(24));
    }
}
