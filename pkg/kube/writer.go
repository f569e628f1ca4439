// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/patchbay-net/patchbay/pkg/source"
)

// Apply implements source.Writer by server-side apply: one request, no
// conflicts, and an object that says so already isn't changed.
func (c *Client) Apply(ctx context.Context, obj source.Object) error {
	t, client, err := c.identify(obj)
	if err != nil {
		return err
	}
	body, err := bodyOf(t, obj)
	if err != nil {
		return fmt.Errorf("apply %s %s: %w", t.Kind, source.KeyOf(obj), err)
	}
	err = named(client.Patch(types.ApplyPatchType), t, source.KeyOf(obj)).
		Param("fieldManager", c.opts.Component).Param("force", "true").
		Body(body).Do(ctx).Error()
	if err != nil {
		return fmt.Errorf("apply %s %s: %w", t.Kind, source.KeyOf(obj), err)
	}
	return nil
}

// bodyOf is an object without its status, as it is sent whole.
func bodyOf(t source.Type, obj source.Object) ([]byte, error) {
	fields, err := fieldsOf(obj)
	if err != nil {
		return nil, err
	}
	delete(fields, "status")
	fields["apiVersion"], fields["kind"] = t.Version.String(), string(t.Kind)
	fields["metadata"] = applied(obj)
	return json.Marshal(fields)
}

// PutVersion makes an object or, if it has a resource version, replaces the spec
// of that very version: it fails where somebody else was first. The object has
// its new version then.
func (c *Client) PutVersion(ctx context.Context, obj source.Object) error {
	t, client, err := c.identify(obj)
	if err != nil {
		return err
	}
	key := source.KeyOf(obj)
	request := client.Post().NamespaceIfScoped(key.Namespace, t.Namespaced).Resource(t.Resource)
	body, err := bodyOf(t, obj)
	if obj.GetResourceVersion() != "" {
		request = named(client.Patch(types.JSONPatchType), t, key)
		body, err = specPatch(obj)
	}
	if err != nil {
		return fmt.Errorf("put %s %s: %w", t.Kind, key, err)
	}
	now := t.New()
	if err := request.Param("fieldManager", c.opts.Component).Body(body).Do(ctx).Into(now); err != nil {
		return fmt.Errorf("put %s %s: %w", t.Kind, key, err)
	}
	obj.SetResourceVersion(now.GetResourceVersion())
	return nil
}

// specPatch says which version it changes: of any other it is refused as a
// conflict.
func specPatch(obj source.Object) ([]byte, error) {
	fields, err := fieldsOf(obj)
	if err != nil {
		return nil, err
	}
	return json.Marshal([]patchStep{
		{"replace", "/metadata/resourceVersion", obj.GetResourceVersion()}, {"replace", "/spec", fields["spec"]},
	})
}

// applied is the part of an object's metadata that is ours to say.
func applied(obj source.Object) map[string]any {
	out := map[string]any{"name": obj.GetName()}
	if ns := obj.GetNamespace(); ns != "" {
		out["namespace"] = ns
	}
	if labels := obj.GetLabels(); len(labels) > 0 {
		out["labels"] = labels
	}
	if annotations := obj.GetAnnotations(); len(annotations) > 0 {
		out["annotations"] = annotations
	}
	if owners := obj.GetOwnerReferences(); len(owners) > 0 {
		out["ownerReferences"] = owners
	}
	return out
}

// UpdateStatus implements source.Writer. The status is replaced whole, by a
// patch that leaves all else alone. If the object carries a UID, another one by
// its name counts as not found.
func (c *Client) UpdateStatus(ctx context.Context, obj source.Object) error {
	t, client, err := c.identify(obj)
	if err != nil {
		return err
	}
	key := source.KeyOf(obj)
	body, err := statusPatch(obj)
	if err != nil {
		return fmt.Errorf("update status of %s %s: %w", t.Kind, key, err)
	}
	err = named(client.Patch(types.JSONPatchType), t, key).SubResource("status").Body(body).Do(ctx).Error()
	switch {
	case err == nil:
		return nil
	case apierrors.IsNotFound(err), isTestFailure(err) && c.isOther(ctx, obj):
		return fmt.Errorf("update status of %s %s: %w", t.Kind, key, source.ErrNotFound)
	}
	return fmt.Errorf("update status of %s %s: %w", t.Kind, key, err)
}

type patchStep struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

func statusPatch(obj source.Object) ([]byte, error) {
	fields, err := fieldsOf(obj)
	if err != nil {
		return nil, err
	}
	status := fields["status"]
	if status == nil {
		status = json.RawMessage("{}")
	}
	var steps []patchStep
	if uid := obj.GetUID(); uid != "" {
		steps = append(steps, patchStep{"test", "/metadata/uid", uid})
	}
	return json.Marshal(append(steps, patchStep{"add", "/status", status}))
}

// isTestFailure tells whether a patch was refused for what it tests.
func isTestFailure(err error) bool {
	return apierrors.IsInvalid(err) || apierrors.IsConflict(err)
}

// isOther tells whether the object of that name is another one now.
func (c *Client) isOther(ctx context.Context, obj source.Object) bool {
	t, client, err := c.identify(obj)
	if err != nil {
		return false
	}
	now := t.New()
	err = named(client.Get(), t, source.KeyOf(obj)).Do(ctx).Into(now)
	return apierrors.IsNotFound(err) || err == nil && now.GetUID() != obj.GetUID()
}

// Patch merges a change into an object: what it doesn't name stays, and stays
// whose it is.
func (c *Client) Patch(ctx context.Context, kind source.Kind, key source.Key, change []byte) error {
	t, client, err := c.clientFor(kind)
	if err != nil {
		return err
	}
	err = named(client.Patch(types.MergePatchType), t, key).Param("fieldManager", c.opts.Component).Body(change).Do(ctx).Error()
	if apierrors.IsNotFound(err) {
		err = source.ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("patch %s %s: %w", kind, key, err)
	}
	return nil
}

// Delete implements source.Writer.
func (c *Client) Delete(ctx context.Context, kind source.Kind, key source.Key) error {
	t, client, err := c.clientFor(kind)
	if err != nil {
		return err
	}
	err = named(client.Delete(), t, key).Body(&metav1.DeleteOptions{}).Do(ctx).Error()
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete %s %s: %w", kind, key, err)
	}
	return nil
}

// DeleteVersion removes an object of that very version: it fails where somebody
// else changed it. One that isn't there is no error.
func (c *Client) DeleteVersion(ctx context.Context, obj source.Object) error {
	t, client, err := c.identify(obj)
	if err != nil {
		return err
	}
	version := obj.GetResourceVersion()
	options := &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &version}}
	err = named(client.Delete(), t, source.KeyOf(obj)).Body(options).Do(ctx).Error()
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete %s %s: %w", t.Kind, source.KeyOf(obj), err)
	}
	return nil
}

func (c *Client) identify(obj source.Object) (source.Type, *rest.RESTClient, error) {
	kind, err := source.KindOf(obj)
	if err != nil {
		return source.Type{}, nil, err
	}
	if obj.GetName() == "" {
		return source.Type{}, nil, fmt.Errorf("write %s: it has no name", kind)
	}
	return c.clientFor(kind)
}

// named addresses a request to one object.
func named(r *rest.Request, t source.Type, key source.Key) *rest.Request {
	return r.NamespaceIfScoped(key.Namespace, t.Namespaced).Resource(t.Resource).Name(key.Name)
}

// fieldsOf returns an object's JSON by field.
func fieldsOf(obj source.Object) (map[string]any, error) {
	data, err := json.Marshal(obj)
	if err != nil {
		return nil, err
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, err
	}
	fields := make(map[string]any, len(raw))
	for name, value := range raw {
		fields[name] = value
	}
	return fields, nil
}

// taintAttempts bounds how often a node is read anew because somebody else
// changed it meanwhile: the list of taints is everybody's.
const taintAttempts = 5

// Taint puts a taint on a node, or takes it off; the others stay as they are. A
// node that is gone is no error.
func (c *Client) Taint(ctx context.Context, node string, taint corev1.Taint, on bool) error {
	client := c.clients[corev1.SchemeGroupVersion]
	var err error
	for range taintAttempts {
		obj := &corev1.Node{}
		err = client.Get().Resource("nodes").Name(node).Do(ctx).Into(obj)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read node %s: %w", node, err)
		}
		same := func(t corev1.Taint) bool { return t.Key == taint.Key && t.Effect == taint.Effect }
		if slices.ContainsFunc(obj.Spec.Taints, same) == on {
			return nil
		}
		taints := slices.DeleteFunc(slices.Clone(obj.Spec.Taints), same)
		if on {
			taints = append(taints, taint)
		}
		body, errBody := json.Marshal([]patchStep{
			{"test", "/metadata/resourceVersion", obj.ResourceVersion}, {"add", "/spec/taints", taints},
		})
		if errBody != nil {
			return fmt.Errorf("taint node %s: %w", node, errBody)
		}
		err = client.Patch(types.JSONPatchType).Resource("nodes").Name(node).Body(body).Do(ctx).Error()
		if err == nil || !isTestFailure(err) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("taint node %s: %w", node, err)
	}
	return nil
}
