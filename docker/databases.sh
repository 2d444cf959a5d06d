#!/bin/sh
# Makes the databases of Airflow and MLflow, each with a role of its own, when Postgres first starts. The secret
# NAME_database holds its address: dialect://ROLE:PASSWORD@HOST/DATABASE.
set -eu
for name in airflow mlflow; do
  psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 --username postgres <<END
\set password \`sed 's|.*://[^:]*:||; s|@.*||' /run/secrets/${name}_database\`
CREATE ROLE $name LOGIN PASSWORD :'password';
CREATE DATABASE $name OWNER $name;
REVOKE CONNECT ON DATABASE $name FROM PUBLIC;
END
done
