# What a developer runs; each recipe is one step of scripts/test.sh.

# Formatting, lints, house rules, dependencies, doc links.
check:
    ./scripts/test.sh fmt tidy deny clippy doc

# Installs the test servers if need be, then runs everything, as CI does.
test:
    ./scripts/test.sh

# The tests of one crate: just crate tidemark-storage
crate name:
    cargo nextest run -p {{ name }}

# Formats the code.
fmt:
    cargo fmt --all

# Fuzzes for a minute.
fuzz:
    ./scripts/test.sh fuzz

# A throwaway server, an agent, a disaster, a restore.
quickstart:
    ./scripts/quickstart.sh
