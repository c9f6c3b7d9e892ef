"""Real services without Docker: Apache Kafka, librdkafka's mock cluster, PostgreSQL.

Each module offers ``prepare(folder, ...) -> Launch`` (for a supervisor) and a context manager
``running(folder, ...)`` (for tests). A real server elsewhere is only another configuration value.
"""
