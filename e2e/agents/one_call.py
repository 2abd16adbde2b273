"""One call to a model by Python's own `ssl`, and the end.

    one_call.py PORT CA.PEM CASE
"""

import http.client
import json
import ssl
import sys

port, ca, case = sys.argv[1:]
connection = http.client.HTTPSConnection("localhost", int(port), context=ssl.create_default_context(cafile=ca))
body = json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "One call"}]})
connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json", "x-mock-case": case})
response = connection.getresponse()
answer = json.load(response)
sys.exit(0 if response.status == 200 and answer["choices"] else 1)
