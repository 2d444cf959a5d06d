"""The verbs: one file a phase, inputs → library → outputs.

A phase module states, at its top and without heavy imports:

    FIELDS   the RunSpec fields that decide its result (they enter the digest)
    SHARES   optional; True for a phase whose work several processes can share (job.ranks)
    FRESH    optional; True for a phase that is always evaluated anew (its result is stored under its run, not by digest)
    unused(spec, arguments)  optional; names of fields and inputs that do not matter under these (they leave the digest)
    fingerprint(spec)   optional; JSON about what lies outside spec and inputs (local files, package versions)
    run(job) does the work: reads `job.spec`, `job.inputs`, writes files below `job.out`, returns up to five numbers

Heavy libraries are imported inside `run`, so that finished work is found without them.
"""
