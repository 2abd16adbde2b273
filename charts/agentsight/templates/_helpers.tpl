{{- define "agentsight.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- /* At most 50 characters: "-operator" and hashes follow. */ -}}
{{- define "agentsight.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "agentsight.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Labels of every object; the argument is (list $ "component"). */ -}}
{{- define "agentsight.labels" -}}
{{- $root := index . 0 -}}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/part-of: agentsight
{{ include "agentsight.selector" . }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "agentsight.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "agentsight.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- /* An image; the argument is (list $ .Values.X.image). */ -}}
{{- define "agentsight.image" -}}
{{- $root := index . 0 -}}{{- $image := index . 1 -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default $root.Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- /* All exporters by name, `otlp` as `default`, as YAML. */ -}}
{{- define "agentsight.exporters" -}}
{{- $all := deepCopy .Values.exporters -}}
{{- if .Values.otlp.endpoint -}}
{{- if hasKey $all "default" -}}
{{- fail "otlp.endpoint and exporters.default both say where telemetry goes: leave one of them out" -}}
{{- end -}}
{{- $_ := set $all "default" .Values.otlp -}}
{{- end -}}
{{- toYaml $all -}}
{{- end -}}

{{- /* Names of the Secrets that exporters need, one a line. */ -}}
{{- define "agentsight.secrets" -}}
{{- $names := list -}}
{{- range $exporter := include "agentsight.exporters" . | fromYaml -}}
{{- range $exporter.headers -}}
{{- with .valueFrom -}}{{- $names = append $names .secretKeyRef.name -}}{{- end -}}
{{- end -}}
{{- with $exporter.tls -}}
{{- with .caSecret -}}{{- $names = append $names .name -}}{{- end -}}
{{- with .clientSecret -}}{{- $names = append $names . -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- $names | uniq | sortAlpha | join "\n" -}}
{{- end -}}

{{- /* The file that agents read: api/src/exporters.rs has its form. */ -}}
{{- define "agentsight.exportersFile" -}}
{{- $secrets := "/etc/agentsight/secrets" -}}
{{- $file := dict -}}
{{- range $name, $exporter := include "agentsight.exporters" . | fromYaml -}}
{{- $out := dict "endpoint" $exporter.endpoint -}}
{{- with $exporter.protocol -}}{{- $_ := set $out "protocol" . -}}{{- end -}}
{{- with $exporter.compression -}}{{- $_ := set $out "compression" . -}}{{- end -}}
{{- with $exporter.timeout -}}{{- $_ := set $out "timeout" . -}}{{- end -}}
{{- $headers := list -}}
{{- range $header := $exporter.headers -}}
{{- $one := dict "name" $header.name -}}
{{- with $header.prefix -}}{{- $_ := set $one "prefix" . -}}{{- end -}}
{{- if $header.valueFrom -}}
{{- $ref := $header.valueFrom.secretKeyRef -}}
{{- $_ := set $one "valueFrom" (dict "file" (printf "%s/%s/%s" $secrets $ref.name $ref.key)) -}}
{{- else -}}
{{- $_ := set $one "value" $header.value -}}
{{- end -}}
{{- $headers = append $headers $one -}}
{{- end -}}
{{- if $headers -}}{{- $_ := set $out "headers" $headers -}}{{- end -}}
{{- $tls := dict -}}
{{- with $exporter.tls -}}
{{- with .caSecret -}}{{- $_ := set $tls "caFile" (printf "%s/%s/%s" $secrets .name .key) -}}{{- end -}}
{{- with .clientSecret -}}
{{- $_ := set $tls "certFile" (printf "%s/%s/tls.crt" $secrets .) -}}
{{- $_ := set $tls "keyFile" (printf "%s/%s/tls.key" $secrets .) -}}
{{- end -}}
{{- end -}}
{{- if $tls -}}{{- $_ := set $out "tls" $tls -}}{{- end -}}
{{- $_ := set $file $name $out -}}
{{- end -}}
{{- toYaml (dict "exporters" $file) -}}
{{- end -}}

{{- /* The file that the operator reads: operator/src/guardrails.rs has its form. */ -}}
{{- define "agentsight.guardrailsFile" -}}
{{- $exporters := dict -}}
{{- range $name, $exporter := include "agentsight.exporters" . | fromYaml -}}
{{- $_ := set $exporters $name (dict "namespaces" ($exporter.namespaces | default (list "*"))) -}}
{{- end -}}
{{- $limits := dict -}}
{{- range $name, $value := .Values.guardrails.limits -}}{{- $_ := set $limits $name (int64 $value) -}}{{- end -}}
{{- $rules := omit .Values.guardrails "limits" -}}
{{- toYaml (merge (dict "exporters" $exporters "limits" $limits) $rules) -}}
{{- end -}}
