"""What tests of several folders share: stand-ins, servers that break on purpose, and models of replicas."""
