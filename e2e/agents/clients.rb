# Two calls to a model over one connection, the second one streamed, by Ruby's own net/http.
#
#     clients.rb BASE
#
# Says the length of each answer. SSL_CERT_FILE names the certificate.
require "json"
require "net/http"

base = URI(ARGV[0])
headers = { "authorization" => "Bearer sk-test-0123456789", "content-type" => "application/json" }
Net::HTTP.start(base.host, base.port, use_ssl: base.scheme == "https") do |http|
  [["Whole", {}], ["Streamed", { stream: true, stream_options: { include_usage: true } }]].each do |text, more|
    request = Net::HTTP::Post.new("/v1/chat/completions", headers)
    request.body = { model: "gpt-4o-mini", messages: [{ role: "user", content: text }], **more }.to_json
    length = 0
    http.request(request) do |answer|
      answer.value
      answer.read_body { |part| length += part.bytesize }
    end
    puts length
  end
end
