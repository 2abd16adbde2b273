<?php
// Two calls to a model, the second one streamed, by one of the ways in which PHP makes them.
//
//     clients.php streams|curl BASE CA
//
// Says the length of each answer.
[, $client, $base, $ca] = $argv;
$url = "$base/v1/chat/completions";
$headers = ["authorization: Bearer sk-test-0123456789", "content-type: application/json"];
$curl = $client === "curl" ? curl_init($url) : null;
foreach (["Whole" => [], "Streamed" => ["stream" => true, "stream_options" => ["include_usage" => true]]] as $text => $more) {
    $body = json_encode(["model" => "gpt-4o-mini", "messages" => [["role" => "user", "content" => $text]]] + $more);
    $length = 0;
    if ($curl) {
        curl_setopt_array($curl, [
            CURLOPT_CAINFO => $ca,
            CURLOPT_FAILONERROR => true,
            CURLOPT_HTTPHEADER => $headers,
            CURLOPT_POSTFIELDS => $body,
            CURLOPT_WRITEFUNCTION => function ($_, $part) use (&$length) {
                $length += strlen($part);
                return strlen($part);
            },
        ]);
        curl_exec($curl) or exit(1);
    } else {
        $http = ["method" => "POST", "header" => $headers, "content" => $body, "protocol_version" => 1.1];
        $answer = fopen($url, "r", false, stream_context_create(["http" => $http, "ssl" => ["cafile" => $ca]])) or exit(1);
        while (!feof($answer)) {
            $length += strlen(fread($answer, 4096));
        }
    }
    echo "$length\n";
}
