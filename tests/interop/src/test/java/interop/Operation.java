package interop;

/** What the matrix has a row for, in its order. */
enum Operation {
    RESOLVE("resolve: all values, by type, by index, of any size"),
    REFER("follow a prefix's site, a service handle, a prefix referral"),
    CHAIN("follow service and prefix referrals (302, 303) over three nodes"),
    RECURSE("resolve through recursion what is at home at a CNRI server"),
    REFUSED("unknown handle, value or prefix, restricted value: the right code"),
    ANSWER("request digest, authoritative answer, site information"),
    CERTIFIED("certified answer, its signature verified by the client"),
    READ_RESTRICTED("read a restricted value as administrator"),
    CREATE("create a handle"),
    ADD("add values"),
    MODIFY("modify values"),
    REMOVE("remove values"),
    DELETE("delete a handle"),
    LIST("list the handles of a prefix, in several messages"),
    HOMING("home a prefix, list homed prefixes, unhome it"),
    WRONG_KEY("wrong key: refused, nothing changed"),
    MISSING_RIGHT("missing right: refused, nothing changed"),
    MIGRATE("move: copy all 50,000 handles of a running server; compared record by record"),
    MIRROR("copy 10,000 handles, then what changes; compared record by record"),
    MANY_RESOLVED("resolve from 8 threads at once"),
    MANY_CREATED("create from 8 threads at once");

    final String text;

    Operation(String text) {
        this.text = text;
    }
}
